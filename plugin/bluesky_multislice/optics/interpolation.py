"""Linear interpolation in the planes (z, x) of a volume as one sparse matrix, the same for all y, and its transpose.

A row of the matrix sums weighted neighbours, each a run of y in memory: what ``embedding_bag`` is made for.
"""

import ctypes
import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor
from torch.nn import functional

_ROWS = 32
"""Rows of y that are turned together: few enough for the copies with y last to stay in a processor's cache."""


_LARGE_PLANE = 2**16
"""Pixels (z, x) from which freed memory between cached matrices is handed back: 4 GiB were seen at 512²."""


class _Matrix(NamedTuple):
    """A sparse matrix (z'·x, z·x) by rows.

    Attributes:
        planes: number of z'.
        start: (z'·x + 1,) where each row begins.
        source: columns, int32.
        weight: values, in the volume's type.
    """

    planes: int
    start: Tensor
    source: Tensor
    weight: Tensor


class _Product(torch.autograd.Function):
    """The product with one matrix, whose gradient is the product with the other, its transpose."""

    @staticmethod
    def forward(ctx, volume: Tensor, matrix: _Matrix, transposed: _Matrix) -> Tensor:
        ctx.matrices = transposed, matrix
        _, ny, nx = volume.shape
        image = volume.new_empty(matrix.planes, ny, nx)
        for rows, part in zip(volume.split(_ROWS, 1), image.split(_ROWS, 1), strict=True):
            y_last = rows.mT.reshape(-1, rows.shape[1]).contiguous()
            sums = functional.embedding_bag(
                matrix.source,
                y_last,
                matrix.start,
                mode="sum",
                per_sample_weights=matrix.weight,
                include_last_offset=True,
            )
            part.copy_(sums.unflatten(0, (matrix.planes, nx)).mT)
        return image

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Product.apply(gradients[0], *ctx.matrices), None, None


def turn_linearly(volume: Tensor, angle_rad: float | Tensor, slice_of_plane: tuple[int, ...]) -> Tensor:
    """Return (slice, y, x): the volume turned by linear interpolation, its planes averaged in slices.

    Args:
        volume: (z, y, x).
        angle_rad: θ; differentiable as a tensor.
        slice_of_plane: (z,) index of the slice that each turned plane belongs to.
    """
    angle = torch.as_tensor(angle_rad, dtype=torch.float64)
    case = slice_of_plane, volume.shape[2], angle.detach().item(), volume.dtype, volume.device
    turned = _Product.apply(volume, *_matrices(*case))
    if not angle.requires_grad:
        return turned
    slope = _Product.apply(volume.detach(), *_matrices(*case, slope=True))
    # Zero, with the gradient of a turn.
    return turned + (angle - angle.detach()) * slope


@functools.lru_cache(maxsize=16)
def _matrices(
    slice_of_plane: tuple[int, ...],
    nx: int,
    angle_rad: float,
    dtype: torch.dtype,
    device: torch.device,
    slope: bool = False,
) -> tuple[_Matrix, _Matrix]:
    """Return the matrix of a turn with its slices averaged, or of its slope in θ, and the transpose of the same."""
    nz, groups = len(slice_of_plane), slice_of_plane[-1] + 1
    group = np.asarray(slice_of_plane)
    image = (group[:, None] * nx + np.arange(nx)).ravel()
    share = np.repeat(1 / np.bincount(group)[group], nx)
    entries = [
        (share[inside] * value[inside], image[inside], source[inside])
        for source, value, inside in _neighbours(nz, nx, angle_rad, slope)
    ]
    value, row, column = (np.concatenate(part) for part in zip(*entries, strict=True))
    matrix = sparse.coo_array((value, (row, column)), shape=(groups * nx, nz * nx)).tocsr()

    def by_rows(csr: sparse.csr_array, planes: int) -> _Matrix:
        start, source = (torch.as_tensor(index.astype(np.int32), device=device) for index in (csr.indptr, csr.indices))
        return _Matrix(planes, start, source, torch.as_tensor(csr.data, device=device, dtype=dtype))

    matrices = by_rows(matrix, groups), by_rows(matrix.T.tocsr(), nz)
    if nz * nx >= _LARGE_PLANE:
        _hand_back_freed_memory()
    return matrices


def _hand_back_freed_memory() -> None:
    """Have the GNU C library give the system what was freed between memory that is still held."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _neighbours(
    nz: int, nx: int, angle_rad: float, slope: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]]:
    """Yield the four neighbours of the points that the lab's pixels see: place, weight and whether it exists.

    All are (z·x,). The weight is a product of two hats 1 − |distance|; its slope in θ replaces one by its derivative.
    """
    z, x = (
        part.ravel() for part in np.meshgrid(np.arange(nz) - (nz - 1) / 2, np.arange(nx) - (nx - 1) / 2, indexing="ij")
    )
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    sample_z, sample_x = x * sine + z * cosine, x * cosine - z * sine
    at_z, at_x = sample_z + (nz - 1) / 2, sample_x + (nx - 1) / 2
    for above, beside in itertools.product((0, 1), (0, 1)):
        i, j = np.floor(at_z).astype(int) + above, np.floor(at_x).astype(int) + beside
        hat_z, hat_x = 1 - np.abs(at_z - i), 1 - np.abs(at_x - j)
        value = hat_z * hat_x
        if slope:
            value = (2 * above - 1) * sample_x * hat_x - (2 * beside - 1) * sample_z * hat_z
        yield i * nx + j, value, (i >= 0) & (i < nz) & (j >= 0) & (j < nx)
