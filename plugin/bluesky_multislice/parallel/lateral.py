"""A field cut into rows over the ranks, turned into columns and back by one exchange of all with all."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel.mesh import Mesh


class Lateral:
    """The ``swap`` of ``finite_difference`` for a field whose rows lie on several ranks, in the order of the ranks.

    Every rank must hand in the same number of views.

    Attributes:
        shape: pixels (y, x) of the whole field.
        own_rows: which rows this rank holds.

    Args:
        mesh: the ranks.
        shape: pixels (y, x) of the whole field.
        rows: how many rows each rank holds; as even as can be where left out.

    Raises:
        PlanError: the rows do not add up to the field, or a rank would have none.
    """

    def __init__(self, mesh: Mesh, shape: tuple[int, int], rows: Sequence[int] | None = None) -> None:
        self.shape = shape
        self._mesh = mesh
        self._rows, self._columns = list(rows or _even(shape[0], mesh.size)), _even(shape[1], mesh.size)
        if len(self._rows) != mesh.size or sum(self._rows) != shape[0] or min(*self._rows, *self._columns) < 1:
            raise PlanError(
                "The rows of a field have to be shared out completely, and every rank needs a row and a column.",
                got=f"{self._rows} rows for {mesh.size} ranks and a field {shape}.",
                remedy="give every rank a number of rows that add up (none for even ones), or use fewer ranks.",
            )
        ends = list(accumulate(self._rows, initial=0))
        self.own_rows = slice(ends[mesh.rank], ends[mesh.rank + 1])

    def to_columns(self, rows: Tensor) -> Tensor:
        """Return waves (view, columns held, all y) of waves (view, rows held, all x)."""
        return self._turn(rows, self._columns, self._rows)

    def to_rows(self, columns: Tensor) -> Tensor:
        """Return waves (view, rows held, all x) of waves (view, columns held, all y)."""
        return self._turn(columns, self._rows, self._columns)

    def largest(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        return self._mesh.largest(number)

    def _turn(self, lines: Tensor, lengths: list[int], found: list[int]) -> Tensor:
        """Send each rank its part of all held lines, transposed; join what came along the last axis."""
        if self._mesh.size == 1:
            return lines.mT
        views, held, _ = lines.shape
        own = lengths[self._mesh.rank]
        sent = torch.cat([part.mT.reshape(-1) for part in lines.split(lengths, -1)])
        came = sent.new_empty(views * own * sum(found))
        sizes = [views * own * count for count in found]
        # Not every backend knows complex numbers.
        dist.all_to_all_single(
            torch.view_as_real(came), torch.view_as_real(sent), sizes, [views * held * length for length in lengths]
        )
        parts = zip(came.split(sizes), found, strict=True)
        return torch.cat([part.view(views, own, count) for part, count in parts], -1)


def _even(count: int, ranks: int) -> list[int]:
    """Return shares of ``count`` that differ by one at most."""
    return [(count * (rank + 1)) // ranks - (count * rank) // ranks for rank in range(ranks)]
