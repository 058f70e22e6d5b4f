"""Linear or cubic interpolation in the planes (z, x) as one sparse matrix, the same for all y, and its transpose.

A row of the matrix sums weighted neighbours, each a run of y in memory: what ``embedding_bag`` is made for. A volume
whose y lies last in memory (``with_y_last``) is read as it is, and its gradient comes so; another is copied first.

On a processor the matrices are made once per angle and kept. An accelerator makes the neighbours of each pixel as it
needs them (``taps``), in both directions, so that nothing is uploaded and no two sums meet in one place.
"""

import ctypes
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.optics import taps
from bluesky_multislice.optics.buffers import empty
from bluesky_multislice.optics.kernels import uses_fused
from bluesky_multislice.optics.layout import has_y_last
from bluesky_multislice.optics.taps import KERNELS, KernelName

_BLOCK = 2**19
"""Voxels of the turned planes that are made together: so few that they stay in a processor's cache."""

_SMALL = 2**21
"""Voxels up to which a volume's gradient takes memory that is used again; that of larger ones is needed elsewhere."""

_KEPT_BYTES, _FEWEST_KEPT = 2**26, 16
"""Memory of the matrices of turns that are kept for the next time, and how many of them at least."""

_LARGE_PLANE = 2**16
"""Pixels (z, x) from which freed memory between cached matrices is handed back: 4 GiB were seen at 512²."""


class _Matrix(NamedTuple):
    """A sparse matrix (z'·x, z·x) by rows.

    Attributes:
        ends: (z' + 1,) where the entries of each plane begin and end.
        start: (z'·x + 1,) where those of each row do.
        source: columns, int32.
        weight: values, in the volume's type.
    """

    ends: list[int]
    start: Tensor
    source: Tensor
    weight: Tensor

    def times(self, rows: Tensor, first: int, last: int) -> Tensor:
        """Return the planes (z', x, y) from ``first`` to before ``last`` of the product with rows (z·x, y)."""
        width = (len(self.start) - 1) // (len(self.ends) - 1)
        begin, end = self.ends[first], self.ends[last]
        sums = functional.embedding_bag(
            self.source[begin:end],
            rows,
            self.start[first * width : last * width + 1] - begin,
            mode="sum",
            per_sample_weights=self.weight[begin:end],
            include_last_offset=True,
        )
        return sums.unflatten(0, (last - first, width))


class _Product(torch.autograd.Function):
    """The product with one matrix, whose gradient is the product with the other, its transpose."""

    @staticmethod
    def forward(ctx, volume: Tensor, matrix: _Matrix, transposed: _Matrix, y_last: bool) -> Tensor:
        ctx.others = transposed, matrix, has_y_last(volume)
        _, ny, nx = volume.shape
        rows, planes = volume.mT.reshape(-1, ny), len(matrix.ends) - 1
        if not y_last:
            image = volume.new_empty(planes, ny, nx)
        elif planes * nx * ny <= _SMALL:
            image = empty((planes, nx, ny), volume).mT
        else:
            image = volume.new_empty(planes, nx, ny).mT
        at_once = max(1, _BLOCK // (ny * nx))
        for first in range(0, planes, at_once):
            last = min(first + at_once, planes)
            image[first:last] = matrix.times(rows, first, last).mT
        return image

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _Product.apply(gradients[0], *ctx.others), None, None, None


def turn_in_planes(
    volume: Tensor, angle_rad: float | Tensor, slice_of_plane: tuple[int, ...], kernel: KernelName = "linear"
) -> Tensor:
    """Return (slice, y, x): the volume turned by interpolation, its planes averaged in slices.

    Args:
        volume: (z, y, x).
        angle_rad: θ; differentiable as a tensor.
        slice_of_plane: (z,) index of the slice that each turned plane belongs to.
        kernel: of the interpolation.
    """
    if volume.dtype == torch.float32 and uses_fused("turns", volume.device):
        # Triton is there where fused kernels serve only.
        from bluesky_multislice.optics.triton_turns import turn as turn_without_matrix

        return turn_without_matrix(volume, angle_rad, slice_of_plane[-1] + 1, kernel)
    refined = isinstance(angle_rad, Tensor) and angle_rad.requires_grad
    angle = angle_rad.detach() if isinstance(angle_rad, Tensor) else angle_rad
    if volume.device.type == "cpu":
        turn = _Turn(slice_of_plane, volume.shape[2], float(angle), volume.dtype, volume.device, kernel)
    else:
        slices = slice_of_plane[-1] + 1
        turn = taps.Turn(len(slice_of_plane), slices, volume.shape[2], angle, KERNELS[kernel])
    turned = _turned(volume, turn)
    if not refined:
        return turned
    # Zero, with the gradient of a turn.
    return turned + (angle_rad - angle) * _turned(volume.detach(), turn._replace(slope=True))


def _turned(volume: Tensor, turn: "_Turn | taps.Turn") -> Tensor:
    if isinstance(turn, _Turn):
        return _Product.apply(volume, *_matrices(turn), False)
    return taps.turn(volume, turn)


class _Turn(NamedTuple):
    """What the matrices of a turn depend on; ``slope`` asks for those of its derivative in θ."""

    slice_of_plane: tuple[int, ...]
    nx: int
    angle_rad: float
    dtype: torch.dtype
    device: torch.device
    kernel: KernelName
    slope: bool = False


_kept: OrderedDict[_Turn, tuple[_Matrix, _Matrix]] = OrderedDict()
"""The turn used last stands last."""


def kept_turns(pixels: int, kernel: KernelName) -> int:
    """Return of how many turns of planes of so many pixels the matrices are kept."""
    return max(_FEWEST_KEPT, _KEPT_BYTES // bytes_of_turn(pixels, kernel))


def bytes_of_turn(pixels: int, kernel: KernelName) -> int:
    """Return the memory of a turn's two matrices: a number and a weight for each neighbour of each pixel."""
    return 2 * 8 * (2 * KERNELS[kernel].reach) ** 2 * pixels


def _matrices(turn: _Turn) -> tuple[_Matrix, _Matrix]:
    """Return the matrix of a turn and its transpose, kept from the last time or made."""
    if turn not in _kept:
        _kept[turn] = _new_matrices(turn)
    _kept.move_to_end(turn)
    while len(_kept) > kept_turns(len(turn.slice_of_plane) * turn.nx, turn.kernel):
        _kept.popitem(last=False)
    return _kept[turn]


def _new_matrices(turn: _Turn) -> tuple[_Matrix, _Matrix]:
    """Return the matrix of a turn with its slices averaged, or of its slope in θ, and the transpose of the same."""
    nz, nx, groups = len(turn.slice_of_plane), turn.nx, turn.slice_of_plane[-1] + 1
    group = np.asarray(turn.slice_of_plane)
    image = (group[:, None] * nx + np.arange(nx)).ravel()
    share = np.repeat(1 / np.bincount(group)[group], nx)
    shape, kernel = (nz, nx), KERNELS[turn.kernel]
    entries = []
    for neighbour in taps.neighbours(torch.arange(nz), shape, turn.angle_rad, kernel, slope=turn.slope):
        source, value, inside = (part.reshape(-1).numpy() for part in neighbour)
        entries.append((share[inside] * value[inside], image[inside], source[inside]))
    value, row, column = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.coo_array((value, (row, column)), shape=(groups * nx, nz * nx)).tocsr()

    def by_rows(csr: sparse.csr_array) -> _Matrix:
        indices = csr.indptr.astype(np.int32), csr.indices.astype(np.int32)
        start, source = (torch.as_tensor(index, device=turn.device) for index in indices)
        weight = torch.as_tensor(csr.data, device=turn.device, dtype=turn.dtype)
        return _Matrix(csr.indptr[::nx].tolist(), start, source, weight)

    matrices = by_rows(matrix), by_rows(matrix.T.tocsr())
    if nz * nx >= _LARGE_PLANE:
        _hand_back_freed_memory()
    return matrices


def _hand_back_freed_memory() -> None:
    """Have the GNU C library give the system what was freed between memory that is still held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
