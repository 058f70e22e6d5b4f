"""Linear or cubic interpolation in the planes (z, x) by one sparse matrix, the same for all y, and its transpose.

A row of the matrix is a weighted sum of neighbours, each contiguous along y; ``embedding_bag`` computes such sums. A
volume with y contiguous in memory (``with_y_last``) is read without a copy, and its gradient has the same layout.

On the CPU the matrices are computed once per angle and cached. An accelerator computes the neighbours of each pixel
when it needs them (``taps``), in both directions, without uploads or atomic additions.
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
"""Voxels of the rotated planes that are computed together; they fit into a CPU cache."""

_SMALL = 2**21
"""Largest number of voxels for which a gradient uses a reused buffer; larger buffers would block needed memory."""

_KEPT_BYTES, _FEWEST_KEPT = 2**26, 16
"""Memory limit of the cached rotation matrices, and the number of rotations that are cached in any case."""

_LARGE_PLANE = 2**16
"""Pixels (z, x) from which freed heap memory is returned to the system: it reached 4 GiB at 512²."""


class _Matrix(NamedTuple):
    """A sparse matrix (z'·x, z·x) by rows.

    Attributes:
        ends: (z' + 1,) first entry of each plane, and the total number of entries.
        start: (z'·x + 1,) first entry of each row, and the total number of entries.
        source: column of each entry, int32.
        weight: value of each entry, in the volume's type.
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
    """The product with a matrix; its gradient is the product with the transposed matrix."""

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


def rotate_in_planes(
    volume: Tensor, angle_rad: float | Tensor, slice_of_plane: tuple[int, ...], kernel: KernelName = "linear"
) -> Tensor:
    """Return (slice, y, x): the volume rotated by interpolation, with its planes averaged into slices.

    Args:
        volume: (z, y, x).
        angle_rad: θ; differentiable as a tensor.
        slice_of_plane: (z,) index of the slice that each rotated plane belongs to.
        kernel: interpolation kernel.
    """
    if volume.dtype == torch.float32 and uses_fused("turns", volume.device):
        # Triton is only installed where fused kernels are used.
        from bluesky_multislice.optics.triton_rotation import rotate_volume as rotate_without_matrix

        return rotate_without_matrix(volume, angle_rad, slice_of_plane[-1] + 1, kernel)
    refined = isinstance(angle_rad, Tensor) and angle_rad.requires_grad
    angle = angle_rad.detach() if isinstance(angle_rad, Tensor) else angle_rad
    if volume.device.type == "cpu":
        rotation = _Rotation(slice_of_plane, volume.shape[2], float(angle), volume.dtype, volume.device, kernel)
    else:
        slices = slice_of_plane[-1] + 1
        rotation = taps.Rotation(len(slice_of_plane), slices, volume.shape[2], angle, KERNELS[kernel])
    rotated = _rotated(volume, rotation)
    if not refined:
        return rotated
    # The added term is zero; its gradient is the derivative in θ.
    return rotated + (angle_rad - angle) * _rotated(volume.detach(), rotation._replace(slope=True))


def _rotated(volume: Tensor, rotation: "_Rotation | taps.Rotation") -> Tensor:
    if isinstance(rotation, _Rotation):
        return _Product.apply(volume, *_matrices(rotation), False)
    return taps.rotate_planes(volume, rotation)


class _Rotation(NamedTuple):
    """The parameters of a rotation matrix; with ``slope``, of its derivative in θ."""

    slice_of_plane: tuple[int, ...]
    nx: int
    angle_rad: float
    dtype: torch.dtype
    device: torch.device
    kernel: KernelName
    slope: bool = False


_kept: OrderedDict[_Rotation, tuple[_Matrix, _Matrix]] = OrderedDict()
"""Cached matrices, ordered by last use, most recent last."""


def cached_rotations(pixels: int, kernel: KernelName) -> int:
    """Return the number of rotations whose matrices are cached, for planes (z, x) with this many pixels."""
    return max(_FEWEST_KEPT, _KEPT_BYTES // bytes_per_rotation(pixels, kernel))


def bytes_per_rotation(pixels: int, kernel: KernelName) -> int:
    """Return the memory of a rotation's two matrices: an index and a weight for each neighbour of each pixel."""
    return 2 * 8 * (2 * KERNELS[kernel].reach) ** 2 * pixels


def _matrices(rotation: _Rotation) -> tuple[_Matrix, _Matrix]:
    """Return the matrix of a rotation and its transpose, from the cache if possible."""
    if rotation not in _kept:
        _kept[rotation] = _new_matrices(rotation)
    _kept.move_to_end(rotation)
    while len(_kept) > cached_rotations(len(rotation.slice_of_plane) * rotation.nx, rotation.kernel):
        _kept.popitem(last=False)
    return _kept[rotation]


def _new_matrices(rotation: _Rotation) -> tuple[_Matrix, _Matrix]:
    """Return the matrix of a rotation with averaging into slices, or of its derivative in θ, and the transpose."""
    nz, nx, groups = len(rotation.slice_of_plane), rotation.nx, rotation.slice_of_plane[-1] + 1
    group = np.asarray(rotation.slice_of_plane)
    image = (group[:, None] * nx + np.arange(nx)).ravel()
    share = np.repeat(1 / np.bincount(group)[group], nx)
    shape, kernel = (nz, nx), KERNELS[rotation.kernel]
    entries = []
    for neighbour in taps.neighbours(torch.arange(nz), shape, rotation.angle_rad, kernel, slope=rotation.slope):
        source, value, inside = (part.reshape(-1).numpy() for part in neighbour)
        entries.append((share[inside] * value[inside], image[inside], source[inside]))
    value, row, column = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.coo_array((value, (row, column)), shape=(groups * nx, nz * nx)).tocsr()

    def by_rows(csr: sparse.csr_array) -> _Matrix:
        indices = csr.indptr.astype(np.int32), csr.indices.astype(np.int32)
        start, source = (torch.as_tensor(index, device=rotation.device) for index in indices)
        weight = torch.as_tensor(csr.data, device=rotation.device, dtype=rotation.dtype)
        return _Matrix(csr.indptr[::nx].tolist(), start, source, weight)

    matrices = by_rows(matrix), by_rows(matrix.T.tocsr())
    if nz * nx >= _LARGE_PLANE:
        _hand_back_freed_memory()
    return matrices


def _hand_back_freed_memory() -> None:
    """Make the GNU C library return freed heap memory to the system."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
