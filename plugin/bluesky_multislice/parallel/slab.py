"""A volume cut into slabs of rows along y over the ranks of an angle, and the exchange of rows between them.

A rotation about y needs no other slab. Either a view is computed by a rank whose slab holds most of its window, or each
rank computes its tile of every view. Rows of the rotated planes outside of the slab are received from the ranks that
hold them, and the gradients of these rows are sent back.
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
"""First row and end row (exclusive)."""

_NEARLY_MOST = 0.9
"""A rank may compute a view if its slab holds this fraction of the largest number of rows in any slab."""


class Slab:
    """The rows of a volume that this rank holds, and the exchange with the ranks that hold the others.

    Attributes:
        mesh: the ranks.
        rows: slice of the rows that this rank holds.
        bytes_sent: bytes of rotated planes and their gradients sent by this rank so far.

    Args:
        mesh: the ranks.
        height: number of rows of the whole volume.
        rank_of_view: (view,) index of the slab whose rank computes each view, from ``ranks_of_views``; None if every
            rank computes all views, or its tile of them.

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
        """Number of rows of the whole volume."""
        return self._ends[-1]

    def largest(self, number: float) -> float:
        """Return the maximum of a number over all ranks if they hold different rows, else the number itself."""
        return number if self.whole else self.mesh.largest(number)

    def total(self, number: float) -> float:
        """Return the sum of a number over the slabs of one volume."""
        return self.mesh.sum_over_slabs(number)

    def largest_value(self, number: Tensor) -> Tensor:
        """Return ``largest`` of a 0-d tensor, on its own device."""
        return number if self.whole else self.mesh.largest_value(number)

    def total_value(self, number: Tensor) -> Tensor:
        """Return ``total`` of a 0-d tensor, on its own device."""
        return self.mesh.sum_of_slabs(number)

    def computes(self, views: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return (view,) whether this rank computes each view."""
        if self._rank_of_view is None:
            return np.ones(len(views), bool)
        return self._rank_of_view[views] == self.mesh.slab

    def counts(self, views: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the views that this rank counts in sums; each view is counted by one rank of the angle."""
        if self._rank_of_view is None and self.mesh.slab > 0:
            return views[:0]
        return views[self.computes(views)]

    def rows_needed(self, views: NDArray[np.intp], first: NDArray[np.intp], windows: Sequence[Rows]) -> list[Rows]:
        """Return the rows that each rank of an angle needs for views at that angle.

        Args:
            views: (view,) indices of the views, the same on all these ranks.
            first: (view,) first row of each view's window; it may be outside of the volume.
            windows: the rows of a window that each of these ranks computes.
        """
        height = self.height
        if self.whole:
            return [(0, height)]
        needed = []
        for rank, (window_start, window_end) in enumerate(windows):
            own = first if self._rank_of_view is None else first[self._rank_of_view[views] == rank]
            start, end = (max(own.min() + window_start, 0), min(own.max() + window_end, height)) if len(own) else (0, 0)
            needed.append((int(start), int(max(start, end))))
        return needed

    def gather(self, planes: Tensor, needed: Sequence[Rows]) -> Tensor:
        """Return the rows of planes that this rank needs, received from the ranks of the angle that hold them.

        Every rank of the angle must call it. Differentiable: the gradients are sent back and summed.

        Args:
            planes: (..., y, x), the rows held.
            needed: rows that each of these ranks needs, from ``rows_needed``.

        Returns:
            (..., y, x), the rows needed.
        """
        if self.whole:
            return planes
        return _Gather.apply(planes, self, tuple(needed))

    def rows_around(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows just before and just after those held, (..., 1, x), or (..., 0, x) at the volume's ends.

        Every rank of the angle must call it.

        Args:
            volume: (..., y, x), the rows held.
        """
        last = self.height
        before = [(max(start - 1, 0), start) for start in self._ends[:-1]]
        after = [(end, min(end + 1, last)) for end in self._ends[1:]]
        pending = self.send(volume, before), self.send(volume, after)
        return pending[0].receive(), pending[1].receive()

    def part_of(self, volume: Tensor) -> Tensor:
        """Return this rank's rows of a whole volume (..., y, x)."""
        return volume[..., self.rows, :]

    def join(self, volume: Tensor) -> Tensor:
        """Return the whole volume (..., y, x) from the rows held by the ranks of the angle."""
        return volume if self.whole else self.collect(volume, [(0, self.height)] * self.mesh.slabs)

    def middle(self, volume: Tensor) -> tuple[Tensor, Tensor]:
        """Return the central slices (y, x) and (z, y) of a volume (z, y, x), from the rows held by all ranks."""
        nz, _, nx = volume.shape
        return self.join(volume[nz // 2]), self.join(volume[:, :, nx // 2 : nx // 2 + 1])[:, :, 0]

    def parts(self, volume: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield each slab's rows and part of the volume, one slab at a time; empty parts except on the first rank.

        Every rank of the angle must iterate over it.
        """
        for start, end in pairwise(self._ends):
            part = self.collect(volume, [(start, end), *[(0, 0)] * (self.mesh.slabs - 1)])
            yield slice(start, end), part

    def collect(self, held: Tensor, needed: Sequence[Rows]) -> Tensor:
        """Return the same rows as ``gather``, without a gradient."""
        return held[..., slice(*needed[0]), :] if self.whole else self.send(held, needed).receive()

    def return_gradients(self, gradient: Tensor, needed: Sequence[Rows]) -> Tensor:
        """Return the gradients of the rows held, summed over all ranks; the transpose of ``collect``."""
        return self.send_back(gradient, needed).receive()

    def send(self, held: Tensor, needed: Sequence[Rows]) -> "PendingRows":
        """Start the exchange of ``collect`` without waiting for it."""
        sent = [_common(other, self._own) for other in needed]
        received = [_common(needed[self.mesh.slab], other) for other in pairwise(self._ends)]
        return self._exchange(held, self.rows.start, sent, received, needed[self.mesh.slab])

    def send_back(self, gradient: Tensor, needed: Sequence[Rows]) -> "PendingRows":
        """Start the exchange of ``return_gradients`` without waiting for it."""
        sent = [_common(needed[self.mesh.slab], other) for other in pairwise(self._ends)]
        received = [_common(other, self._own) for other in needed]
        return self._exchange(gradient, needed[self.mesh.slab][0], sent, received, self._own)

    @property
    def _own(self) -> Rows:
        return self.rows.start, self.rows.stop

    def _exchange(
        self, planes: Tensor, first: int, sent: Sequence[Rows], received: Sequence[Rows], result: Rows
    ) -> "PendingRows":
        """Start an all-to-all exchange of rows.

        Args:
            planes: (..., y, x) with row ``first`` of the volume as its first row.
            first: see ``planes``.
            sent: rows to send to each rank.
            received: rows to receive from each rank.
            result: rows of the result.
        """
        parts = [planes[..., a - first : b - first, :] for a, b in sent]
        own_part, parts[self.mesh.slab] = parts[self.mesh.slab], parts[self.mesh.slab][..., :0, :]
        shapes = [(*planes.shape[:-2], b - a, planes.shape[-1]) for a, b in received]
        sizes = [math.prod(shape) for shape in shapes]
        sizes[self.mesh.slab] = 0
        outgoing = torch.cat([part.reshape(-1) for part in parts])
        incoming = outgoing.new_empty(sum(sizes))
        work = dist.all_to_all_single(
            incoming, outgoing, sizes, [part.numel() for part in parts], group=self.mesh.slab_group, async_op=True
        )
        self.bytes_sent += outgoing.numel() * outgoing.element_size()
        received_parts = [
            part.view(shape) if part.numel() else None
            for shape, part in zip(shapes, incoming.split(sizes), strict=True)
        ]
        # Rows that stay on this rank are not sent.
        received_parts[self.mesh.slab] = own_part
        return PendingRows(cast(dist.Work, work), outgoing, list(zip(received, received_parts, strict=True)), result)


class PendingRows:
    """Rows that are being received from other ranks.

    Args:
        work: the exchange.
        outgoing: buffer of the sent rows, kept alive until the exchange has finished.
        parts: received or own rows and their values (..., y, x); None for no rows.
        rows: rows of the result.
    """

    def __init__(self, work: dist.Work, outgoing: Tensor, parts: list[tuple[Rows, Tensor | None]], rows: Rows) -> None:
        self._work, self._outgoing, self._parts, self._rows = work, outgoing, parts, rows

    def receive(self) -> Tensor:
        """Wait for the exchange and return the rows (..., y, x), each the sum of its received parts."""
        self._work.wait()
        start, end = self._rows
        shape = next(part.shape for _, part in self._parts if part is not None)
        result = self._outgoing.new_zeros((*shape[:-2], end - start, shape[-1]))
        for (a, b), part in self._parts:
            if part is not None:
                result[..., a - start : b - start, :] += part
        return result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, planes: Tensor, slab: Slab, needed: tuple[Rows, ...]) -> Tensor:
        ctx.slab, ctx.needed = slab, needed
        return slab.collect(planes, needed)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.slab.return_gradients(gradients[0], ctx.needed), None, None


def ranks_of_views(first: NDArray[np.float64], window: int, height: int, slabs: int) -> NDArray[np.intp]:
    """Return (view,) the index of the slab whose rank computes each view: one with nearly the most rows of its window.

    If several slabs qualify, as for windows larger than a slab, the views are distributed evenly.

    Args:
        first: (view,) first row of each view's window; it may be outside of the volume.
        window: number of rows of a window.
        height: number of rows of the volume.
        slabs: number of slabs.
    """
    if slabs == 1:
        return np.zeros(len(first), np.intp)
    ends = np.array(ends_of(height, slabs))
    shared = np.minimum(first[:, None] + window, ends[1:]) - np.maximum(first[:, None], ends[:-1])
    shared = shared.clip(min=0)
    good = shared >= _NEARLY_MOST * shared.max(axis=1, keepdims=True)
    load, slab_of_view = np.zeros(slabs), np.empty(len(first), np.intp)
    # In random order, so that every batch of views keeps all ranks busy.
    for view in np.random.default_rng(0).permutation(len(first)):
        slab_of_view[view] = np.where(good[view], load, np.inf).argmin()
        load[slab_of_view[view]] += 1
    return slab_of_view


def _common(one: Rows, other: Rows) -> Rows:
    """Return the rows that two ranges share; an empty range at the start of ``one`` if there are none."""
    start, end = max(one[0], other[0]), min(one[1], other[1])
    return (start, end) if end > start else (one[0], one[0])


def check_rows(height: int, slabs: int) -> None:
    """Check that every slab has a row.

    Args:
        height: number of rows of the volume.
        slabs: number of slabs.

    Raises:
        PlanError: a slab would have no row.
    """
    ends = ends_of(height, slabs)
    if any(start == end for start, end in pairwise(ends)):
        raise PlanError(
            "Every slab needs a row of the volume.",
            got=f"{height} rows for {slabs} slabs of {ends[1]} rows.",
            remedy="use fewer slabs: a mesh whose second number is smaller.",
        )


def ends_of(size: int, parts: int) -> list[int]:
    """Return (part + 1,) the bounds of parts, cut as PyTorch shards a tensor: the last part may be smaller."""
    each = -(-size // parts)
    return [min(part * each, size) for part in range(parts + 1)]
