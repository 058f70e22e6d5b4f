"""Selections of HDF5 dataspaces, and which part of a dataset they cover together.

A selection is a list of products: one array (interval, 2) of starts and ends per axis, whose product is selected.
"""

from dataclasses import dataclass, field

import h5py
import numpy as np
from numpy.typing import NDArray

Intervals = NDArray[np.int64]
Product = tuple[Intervals, ...]


@dataclass
class Coverage:
    """Pixels of a virtual dataset that have a source.

    Attributes:
        shape: shape of the dataset, (frame, …, y, x).
        products: the parts that have a source.
        holes: (y, x) pixels whose source has no value of its own in some frame; None: there are none.
    """

    shape: tuple[int, ...]
    products: list[Product] = field(default_factory=list)
    holes: NDArray[np.bool_] | None = None

    def unmapped(self) -> tuple[NDArray[np.bool_], int]:
        """Return the pixels (y, x) without a source in some frame, and the first such frame."""
        edges = [
            np.unique(np.concatenate([[0, n], *(np.clip(product[axis], 0, n).ravel() for product in self.products)]))
            for axis, n in enumerate(self.shape)
        ]
        covered = np.zeros([len(edge) - 1 for edge in edges], bool)
        for product in self.products:
            cells = [_cells(edge, intervals) for edge, intervals in zip(edges, product, strict=True)]
            one_block = all(len(bounds) == 1 for bounds in cells)
            where = (
                tuple(slice(*bounds[0]) for bounds in cells)
                if one_block
                else np.ix_(*(np.concatenate([np.arange(*bound) for bound in bounds]) for bounds in cells))
            )
            covered[where] = True
        leading = tuple(range(covered.ndim - 2))
        found = ~covered.all(axis=leading)
        for axis in (0, 1):
            found = np.repeat(found, np.diff(edges[axis - 2]), axis)
        rows = np.flatnonzero(~covered.reshape(len(covered), -1).all(axis=1))
        first = int(edges[0][rows[0]]) if len(rows) else 0
        return (found if self.holes is None else found | self.holes), first


def is_unlimited(space: h5py.h5s.SpaceID) -> bool:
    """Return whether a selection grows with its dataset."""
    if space.get_select_type() != h5py.h5s.SEL_HYPERSLABS or not space.is_regular_hyperslab():
        return False
    _, _, count, block = space.get_regular_hyperslab()
    return h5py.h5s.UNLIMITED in (*count, *block)


def products_of(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> list[Product]:
    """Return a limited selection."""
    kind = space.get_select_type()
    if kind == h5py.h5s.SEL_NONE:
        return []
    if kind == h5py.h5s.SEL_ALL:
        return [tuple(np.array([[0, n]]) for n in shape)]
    if kind == h5py.h5s.SEL_POINTS:
        return [tuple(np.array([[at, at + 1]]) for at in point) for point in space.get_select_elem_pointlist()]
    if space.is_regular_hyperslab():
        return [tuple(intervals(*map(int, axis)) for axis in zip(*space.get_regular_hyperslab(), strict=True))]
    corners = np.asarray(space.get_select_hyper_blocklist(), np.int64)
    return [tuple(np.array([[low, high + 1]]) for low, high in zip(*pair, strict=True)) for pair in corners]


def intervals(start: int, stride: int, count: int, block: int) -> Intervals:
    """Return the intervals of one axis of a regular selection."""
    if stride == block:
        count, block = 1, count * block
    begin = start + stride * np.arange(count, dtype=np.int64)
    return np.stack([begin, begin + block], axis=1)


def unlimited_product(
    target: h5py.h5s.SpaceID, source: h5py.h5s.SpaceID, source_shape: tuple[int, ...], shape: tuple[int, ...]
) -> Product:
    """Return the part of a virtual dataset for which an unlimited source has values now.

    Args:
        target: unlimited selection in the virtual dataset.
        source: unlimited selection in the source.
        source_shape: present shape of the source.
        shape: shape of the virtual dataset.
    """
    of_source, of_target = _unlimited_axis(source), _unlimited_axis(target)
    present = _selected(source, of_source, source_shape[of_source])
    part = []
    for axis, values in enumerate(zip(*target.get_regular_hyperslab(), strict=True)):
        start, stride, count, block = (int(value) for value in values)
        if axis != of_target:
            part.append(intervals(start, stride, count, block))
        elif block == h5py.h5s.UNLIMITED:
            part.append(np.array([[start, start + present]]))
        else:
            rest = start + present // block * stride
            last = np.array([[rest, rest + present % block]])
            part.append(np.concatenate([intervals(start, stride, present // block, block), last]))
        part[-1] = np.clip(part[-1], 0, shape[axis])
    return tuple(part)


def _unlimited_axis(space: h5py.h5s.SpaceID) -> int:
    _, _, count, block = space.get_regular_hyperslab()
    return next(n for n in range(len(count)) if h5py.h5s.UNLIMITED in (count[n], block[n]))


def _selected(space: h5py.h5s.SpaceID, axis: int, length: int) -> int:
    """Return how many indices an unlimited selection has along its axis, if the dataset is so long."""
    start, stride, _, block = (int(part[axis]) for part in space.get_regular_hyperslab())
    left = max(0, length - start)
    if block == h5py.h5s.UNLIMITED:
        return left
    return left // stride * block + min(left % stride, block)


def _cells(edges: Intervals, intervals: Intervals) -> Intervals:
    clipped = np.searchsorted(edges, np.clip(intervals, 0, edges[-1]))
    return clipped[clipped[:, 0] < clipped[:, 1]]
