"""A volume cut into slabs of rows along y over the ranks of an angle, and the rows that travel between them.

A turn about y needs no other slab. A view is computed by the rank whose slab holds most of its window, or each rank
computes its tile of every view; what rows of the turned planes that takes outside of the slab come from the ranks that
hold them, and the gradients in them go back.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel.mesh import Mesh

Rows = tuple[int, int]
"""First row, and the one behind the last."""

_NEARLY_MOST = 0.9
"""Part of the most rows of a window that a slab holds, above which its rank may take the view to share the work."""


class Slab:
    """The rows of a volume that this rank holds, and its exchange with those that hold the others.

    Attributes:
        mesh: the ranks.
        rows: which rows this rank holds.
        bytes_sent: what of turned planes and their gradients this rank has sent to others so far.

    Args:
        mesh: the ranks.
        height: rows of the whole volume.
        rank_of_view: (view,) number of the slab whose rank computes a view, from ``ranks_of_views``; None where every
            rank computes all, whole or its tile of them.

    Raises:
        PlanError: a rank would have no row.
    """

    def __init__(self, mesh: Mesh, height: int, rank_of_view: NDArray[np.intp] | None = None) -> None:
        self.mesh, self.bytes_sent = mesh, 0
        check_rows(height, mesh.slabs)
        self._ends = ends_of(height, mesh.slabs)
        self._rank_of_view = rank_of_view
        self.rows = slice(self._ends[mesh.slab], self._ends[mesh.slab + 1])

    @property
    def whole(self) -> bool:
        """Whether this rank holds all rows."""
        return self.mesh.slabs == 1

    @property
    def height(self) -> int:
        """Rows of the whole volume."""
        return self._ends[-1]

    def largest(self, number: float) -> float:
        """Return the largest of a number over all ranks, where they hold different rows."""
        return number if self.whole else self.mesh.largest(number)

    def total(self, number: float) -> float:
        """Return the sum of a number over the slabs of one volume."""
        return self.mesh.sum_over_slabs(number)

    def largest_value(self, number: Tensor) -> Tensor:
        """Return what ``largest`` does, of a 0-d tensor that stays where it is."""
        return number if self.whole else self.mesh.largest_value(number)

    def total_value(self, number: Tensor) -> Tensor:
        """Return what ``total`` does, of a 0-d tensor that stays where it is."""
        return self.mesh.sum_of_slabs(number)

    def computes(self, views: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return which of some views this rank computes."""
        if self._rank_of_view is None:
            return np.ones(len(views), bool)
        return self._rank_of_view[views] == self.mesh.slab

    def counts(self, views: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return those of some views that this rank counts, of which each is counted by one rank of the angle."""
        if self._rank_of_view is None and self.mesh.slab > 0:
            return views[:0]
        return views[self.computes(views)]

    def wanted(self, views: NDArray[np.intp], first: NDArray[np.intp], windows: Sequence[Rows]) -> list[Rows]:
        """Return the rows that each rank of an angle needs for some views at that angle.

        Args:
            views: which views, the same on all these ranks.
            first: (view,) first row of each one's window; it may lie outside of the volume.
            windows: for each of these ranks the rows of a window that it computes.
        """
        height = self.height
        if self.whole:
            return [(0, height)]
        found = []
        for rank, (before, behind) in enumerate(windows):
            own = first if self._rank_of_view is None else first[self._rank_of_view[views] == rank]
            start, end = (max(own.min() + before, 0), min(own.max() + behind, height)) if len(own) else (0, 0)
            found.append((int(start), int(max(start, end))))
        return found

    def gather(self, planes: Tensor, wanted: Sequence[Rows]) -> Tensor:
        """Return the rows that this rank wants of planes whose rows all ranks of the angle hold.

        Every one of these ranks calls it. Differentiable: gradients go back to where the rows came from and add up.

        Args:
            planes: (..., y, x), the rows held.
            wanted: for each of these ranks its rows, from ``wanted``.

        Returns:
            (..., y, x), the rows wanted.
        """
        if self.whole:
            return planes
        return _Gather.apply(planes, self, tuple(wanted))

    def rows_around(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row before those held and the one behind them, (..., 1, x), or (..., 0, x) at the volume's ends.

        Every rank of the angle calls it.

        Args:
            volume: (..., y, x), the rows held.
        """
        last = self.height
        before = [(max(start - 1, 0), start) for start in self._ends[:-1]]
        behind = [(end, min(end + 1, last)) for end in self._ends[1:]]
        coming = self.send(volume, before), self.send(volume, behind)
        return coming[0].arrive(), coming[1].arrive()

    def part_of(self, volume: Tensor) -> Tensor:
        """Return this rank's rows of a whole volume (..., y, x)."""
        return volume[..., self.rows, :]

    def join(self, volume: Tensor) -> Tensor:
        """Return the whole volume (..., y, x) of which each rank of the angle holds its rows."""
        return volume if self.whole else self.collect(volume, [(0, self.height)] * self.mesh.slabs)

    def middle(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle slices (y, x) and (z, y) of a volume (z, y, x) of which each rank holds its rows."""
        nz, _, nx = volume.shape
        return self.join(volume[nz // 2]), self.join(volume[:, :, nx // 2 : nx // 2 + 1])[:, :, 0]

    def parts(self, volume: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the slabs of a volume one after the other, with their rows, where the first rank is; empty elsewhere.

        Every rank of the angle goes through it.
        """
        for start, end in pairwise(self._ends):
            found = self.collect(volume, [(start, end), *[(0, 0)] * (self.mesh.slabs - 1)])
            yield slice(start, end), found

    def collect(self, held: Tensor, wanted: Sequence[Rows]) -> Tensor:
        """Return what ``gather`` does, without a gradient."""
        return held[..., slice(*wanted[0]), :] if self.whole else self.send(held, wanted).arrive()

    def give_back(self, gradient: Tensor, wanted: Sequence[Rows]) -> Tensor:
        """Return the sum over all ranks of the gradients in the rows held; the transpose of ``collect``."""
        return self.send_back(gradient, wanted).arrive()

    def send(self, held: Tensor, wanted: Sequence[Rows]) -> "PendingRows":
        """Do what ``collect`` does, without waiting for the rows to arrive."""
        sent = [_common(other, self._own) for other in wanted]
        came = [_common(wanted[self.mesh.slab], other) for other in pairwise(self._ends)]
        return self._swap(held, self.rows.start, sent, came, wanted[self.mesh.slab])

    def send_back(self, gradient: Tensor, wanted: Sequence[Rows]) -> "PendingRows":
        """Do what ``give_back`` does, without waiting for the rows to arrive."""
        sent = [_common(wanted[self.mesh.slab], other) for other in pairwise(self._ends)]
        came = [_common(other, self._own) for other in wanted]
        return self._swap(gradient, wanted[self.mesh.slab][0], sent, came, self._own)

    @property
    def _own(self) -> Rows:
        return self.rows.start, self.rows.stop

    def _swap(
        self, planes: Tensor, first: int, sent: Sequence[Rows], came: Sequence[Rows], result: Rows
    ) -> "PendingRows":
        """Send each rank its rows of planes that begin with row ``first``, and expect what comes from each."""
        parts = [planes[..., a - first : b - first, :] for a, b in sent]
        here, parts[self.mesh.slab] = parts[self.mesh.slab], parts[self.mesh.slab][..., :0, :]
        shapes = [(*planes.shape[:-2], b - a, planes.shape[-1]) for a, b in came]
        sizes = [math.prod(shape) for shape in shapes]
        sizes[self.mesh.slab] = 0
        leaving = torch.cat([part.reshape(-1) for part in parts])
        coming = leaving.new_empty(sum(sizes))
        work = dist.all_to_all_single(
            coming, leaving, sizes, [part.numel() for part in parts], group=self.mesh.slab_group, async_op=True
        )
        self.bytes_sent += leaving.numel() * leaving.element_size()
        found = [
            part.view(shape) if part.numel() else None for shape, part in zip(shapes, coming.split(sizes), strict=True)
        ]
        # What stays on this rank does not go through the exchange.
        found[self.mesh.slab] = here
        return PendingRows(cast(dist.Work, work), leaving, list(zip(came, found, strict=True)), result)


class PendingRows:
    """Rows on their way from other ranks.

    Args:
        work: the exchange.
        leaving: what is sent, which has to live until it is.
        parts: rows, and what comes there (..., y, x) or stays there; None where nothing does.
        rows: which rows are wanted.
    """

    def __init__(self, work: dist.Work, leaving: Tensor, parts: list[tuple[Rows, Tensor | None]], rows: Rows) -> None:
        self._work, self._leaving, self._parts, self._rows = work, leaving, parts, rows

    def arrive(self) -> Tensor:
        """Wait, and return the rows (..., y, x), each the sum of what came there."""
        self._work.wait()
        start, end = self._rows
        shape = next(part.shape for _, part in self._parts if part is not None)
        found = self._leaving.new_zeros((*shape[:-2], end - start, shape[-1]))
        for (a, b), part in self._parts:
            if part is not None:
                found[..., a - start : b - start, :] += part
        return found


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, slab: Slab, wanted: tuple[Rows, ...]) -> Tensor:
        ctx.slab, ctx.wanted = slab, wanted
        return slab.collect(planes, wanted)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.slab.give_back(gradients[0], ctx.wanted), None, None


def ranks_of_views(first: NDArray[np.float64], window: int, height: int, slabs: int) -> NDArray[np.intp]:
    """Return for each view the slab whose rank computes it: one that holds most of its window, or nearly.

    Where several do, as with frames that are wider than a slab, the views are dealt out evenly.

    Args:
        first: (view,) first row of each one's window, which may lie outside of the volume.
        window: rows of a window.
        height: rows of the volume.
        slabs: number of slabs.
    """
    if slabs == 1:
        return np.zeros(len(first), np.intp)
    ends = np.array(ends_of(height, slabs))
    shared = np.minimum(first[:, None] + window, ends[1:]) - np.maximum(first[:, None], ends[:-1])
    shared = shared.clip(min=0)
    good = shared >= _NEARLY_MOST * shared.max(axis=1, keepdims=True)
    load, found = np.zeros(slabs), np.empty(len(first), np.intp)
    # In no order that a step's batches follow, too: each of them is to keep all ranks busy.
    for view in np.random.default_rng(0).permutation(len(first)):
        found[view] = np.where(good[view], load, np.inf).argmin()
        load[found[view]] += 1
    return found


def _common(one: Rows, other: Rows) -> Rows:
    """Return the rows that two ranges share, empty at the first one's start where they share none."""
    start, end = max(one[0], other[0]), min(one[1], other[1])
    return (start, end) if end > start else (one[0], one[0])


def check_rows(height: int, slabs: int) -> None:
    """Refuse slabs without a row.

    Args:
        height: rows of the volume.
        slabs: how many slabs it is cut into.

    Raises:
        PlanError: a slab would have no row.
    """
    ends = ends_of(height, slabs)
    if any(start == end for start, end in pairwise(ends)):
        raise PlanError(
            "Every slab needs a row of the volume.",
            got=f"{height} rows for {slabs} slabs of {ends[1]}.",
            remedy="ask for fewer slabs: a mesh whose second number is smaller.",
        )


def ends_of(size: int, parts: int) -> list[int]:
    """Return where parts begin and end, cut as PyTorch shards a tensor: the last one may be smaller."""
    each = -(-size // parts)
    return [min(part * each, size) for part in range(parts + 1)]
