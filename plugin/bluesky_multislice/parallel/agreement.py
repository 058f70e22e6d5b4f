"""Exchange of small Python objects among all ranks, in a process group of its own."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from bluesky_multislice.parallel.mesh import Mesh

T = TypeVar("T")


class Agreement:
    """Exchanges small Python objects among all ranks; may be used by a thread, independent of the fit's messages.

    Attributes:
        group: all ranks with the gloo backend, because the objects are in host memory; None on a single rank.

    Args:
        mesh: the ranks.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        group = dist.new_group(backend="gloo") if mesh.size > 1 else None
        self.group = group if isinstance(group, dist.ProcessGroup) else None

    def from_first_rank(self, read: Callable[[], T]) -> T:
        """Call a function on rank 0 and return its result on all ranks."""
        results: list[Any] = [read() if self._mesh.rank == 0 else None]
        if self.group is not None:
            dist.broadcast_object_list(results, src=0, group=self.group)
        return results[0]

    def from_all_ranks(self, read: Callable[[], T]) -> list[T]:
        """Call a function on every rank and return all results on all ranks; it must not return None.

        Raises:
            OSError: the function raised an OSError on some rank; raised on all ranks.
        """
        try:
            own: tuple[T | None, str] = read(), ""
        except OSError as error:
            own = None, str(error)
        results = [own] * self._mesh.size
        if self.group is not None:
            dist.all_gather_object(results, own, group=self.group)
        failures = [failure for _, failure in results if failure]
        if failures:
            raise OSError(failures[0])
        return [value for value, _ in results if value is not None]
