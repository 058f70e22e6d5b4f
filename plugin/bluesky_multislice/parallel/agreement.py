"""What all ranks have to know alike beside the fit, said in a group of their own."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from bluesky_multislice.parallel.mesh import Mesh

T = TypeVar("T")


class Agreement:
    """Exchanges small things among all ranks, also from a thread: its messages do not mix with those of the fit.

    Attributes:
        group: the ranks, by gloo, for what is said lies in the host's memory; None on a single rank.

    Args:
        mesh: the ranks.
    """

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        group = dist.new_group(backend="gloo") if mesh.size > 1 else None
        self.group = group if isinstance(group, dist.ProcessGroup) else None

    def from_first_rank(self, look: Callable[[], T]) -> T:
        """Return on all ranks what rank 0 finds."""
        found: list[Any] = [look() if self._mesh.rank == 0 else None]
        if self.group is not None:
            dist.broadcast_object_list(found, src=0, group=self.group)
        return found[0]

    def from_all_ranks(self, look: Callable[[], T]) -> list[T]:
        """Return on all ranks what each of them finds; a failure of any is one of all.

        Raises:
            OSError: a rank could not look.
        """
        try:
            own: tuple[T | None, str] = look(), ""
        except OSError as error:
            own = None, str(error)
        found = [own] * self._mesh.size
        if self.group is not None:
            dist.all_gather_object(found, own, group=self.group)
        failed = [fault for _, fault in found if fault]
        if failed:
            raise OSError(failed[0])
        return [value for value, _ in found if value is not None]
