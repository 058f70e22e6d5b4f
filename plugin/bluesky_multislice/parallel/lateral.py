"""A field distributed over ranks by rows; one all-to-all exchange redistributes it by columns, and back."""

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel.mesh import Mesh


class Lateral:
    """The ``swap`` of ``finite_difference`` for a field whose rows are distributed over ranks in their order.

    Every rank must pass the same number of views.

    Attributes:
        shape: pixels (y, x) of the whole field.
        own_rows: slice of the rows that this rank holds.

    Args:
        mesh: the ranks.
        shape: pixels (y, x) of the whole field.
        rows: number of rows of each rank; None distributes them evenly.

    Raises:
        PlanError: the rows do not add up to the field, or a rank would have no row or no column.
    """

    def __init__(self, mesh: Mesh, shape: tuple[int, int], rows: Sequence[int] | None = None) -> None:
        self.shape = shape
        self._mesh = mesh
        self._rows, self._columns = list(rows or _even(shape[0], mesh.size)), _even(shape[1], mesh.size)
        if len(self._rows) != mesh.size or sum(self._rows) != shape[0]:
            raise PlanError(
                "The rows of a field must be shared out completely over the ranks.",
                got=f"{self._rows} rows for {mesh.size} ranks and a field {shape}.",
                remedy="use one number of rows per rank with the right sum, or None for an even distribution.",
            )
        if min(*self._rows, *self._columns) < 1:
            raise PlanError(
                "Every rank needs at least one row and one column of the field.",
                got=f"{self._rows} rows and {self._columns} columns for {mesh.size} ranks.",
                remedy="use fewer ranks.",
            )
        ends = list(accumulate(self._rows, initial=0))
        self.own_rows = slice(ends[mesh.rank], ends[mesh.rank + 1])

    def to_columns(self, rows: Tensor) -> Tensor:
        """Return waves (view, columns held, all y) from waves (view, rows held, all x)."""
        return self._transpose(rows, self._columns, self._rows)

    def to_rows(self, columns: Tensor) -> Tensor:
        """Return waves (view, rows held, all x) from waves (view, columns held, all y)."""
        return self._transpose(columns, self._rows, self._columns)

    def largest(self, number: float) -> float:
        """Return the maximum of a number over all ranks."""
        return self._mesh.largest(number)

    def _transpose(self, lines: Tensor, lengths: list[int], counts: list[int]) -> Tensor:
        """Exchange parts of lines with all ranks and return this rank's lines of the transposed field.

        Args:
            lines: (view, lines held, n).
            lengths: number of lines of each rank after the exchange.
            counts: number of lines of each rank before the exchange.
        """
        if self._mesh.size == 1:
            return lines.mT
        views, held, _ = lines.shape
        own = lengths[self._mesh.rank]
        sent = torch.cat([part.mT.reshape(-1) for part in lines.split(lengths, -1)])
        received = sent.new_empty(views * own * sum(counts))
        sizes = [views * own * count for count in counts]
        # Not every backend supports complex numbers.
        dist.all_to_all_single(
            torch.view_as_real(received), torch.view_as_real(sent), sizes, [views * held * length for length in lengths]
        )
        parts = zip(received.split(sizes), counts, strict=True)
        return torch.cat([part.view(views, own, count) for part, count in parts], -1)


def _even(count: int, ranks: int) -> list[int]:
    """Split ``count`` into one share per rank; the shares differ by at most one."""
    return [(count * (rank + 1)) // ranks - (count * rank) // ranks for rank in range(ranks)]
