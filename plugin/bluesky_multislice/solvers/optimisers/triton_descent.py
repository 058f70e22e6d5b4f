"""Regularisers, optimiser and bounds of a volume in one pass over memory, as a Triton kernel.

The regularisers of a voxel read its neighbours, which must still have their old values. The kernel therefore writes
the updated volume over the gradient, whose neighbours are not read, and the caller exchanges both tensors. No second
volume is needed.
"""

# The Triton compiler assigns the types of kernel arguments, which pyright does not know.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluesky_multislice.solvers.optimisers.descent import Moments
from bluesky_multislice.solvers.priors import Bounds, Weights

_X, _Y = 8, 64
"""Voxels along x and y per program, chosen so that programs read few voxels of their neighbours."""

_WARPS = 8
"""Two voxels per thread: with four, only half as many threads have registers, as compiled for sm_90."""


@triton.jit
def _voxels(volume, before, behind, z, x, y, nx, ny, valid, BEFORE: tl.constexpr, BEHIND: tl.constexpr):
    """Return voxels of a plane; other ranks store the rows −1 and ny, if these exist."""
    row = (tl.full((), 0, tl.int64) + z) * nx + x
    found = tl.load(volume + row * ny + y, mask=valid & (y >= 0) & (y < ny), other=0.0)
    if BEFORE:
        found += tl.load(before + row + 0 * y, mask=valid & (y < 0), other=0.0)
    if BEHIND:
        found += tl.load(behind + row + 0 * y, mask=valid & (y >= ny), other=0.0)
    return found


@triton.jit
def _factor(along_x, along_y, along_z, total_variation, stretch, floor):
    """Return the factor of total variation on a difference: its weight divided by the gradient's length."""
    square = along_x * along_x + along_y * along_y + stretch * (along_z * along_z) + floor
    return total_variation / tl.sqrt(square)


@triton.jit
def _uphill(
    volume, before, behind, z, x, y, nz, nx, ny, valid, total_variation, stretch, floor, smoothness_z,
    BEFORE: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """Return the gradient of total variation and smoothness, from the differences to both neighbours of a voxel."""
    # At the volume's edge, the voxel is its own neighbour, so that the difference is zero.
    z_up, z_down = tl.minimum(z + 1, nz - 1), tl.maximum(z - 1, 0)
    x_up, x_down = tl.minimum(x + 1, nx - 1), tl.maximum(x - 1, 0)
    y_up = tl.minimum(y + 1, ny if BEHIND else ny - 1)
    y_down = tl.maximum(y - 1, -1 if BEFORE else 0)
    v = _voxels(volume, before, behind, z, x, y, nx, ny, valid, BEFORE, BEHIND)
    along_x = _voxels(volume, before, behind, z, x_up, y, nx, ny, valid, BEFORE, BEHIND) - v
    along_y = _voxels(volume, before, behind, z, x, y_up, nx, ny, valid, BEFORE, BEHIND) - v
    along_z = _voxels(volume, before, behind, z_up, x, y, nx, ny, valid, BEFORE, BEHIND) - v
    factor = _factor(along_x, along_y, along_z, total_variation, stretch, floor)
    uphill = -factor * (along_x + along_y) - (factor * stretch + smoothness_z) * along_z

    w = _voxels(volume, before, behind, z, x_down, y, nx, ny, valid, BEFORE, BEHIND)
    along_y = _voxels(volume, before, behind, z, x_down, y_up, nx, ny, valid, BEFORE, BEHIND) - w
    along_z = _voxels(volume, before, behind, z_up, x_down, y, nx, ny, valid, BEFORE, BEHIND) - w
    uphill += _factor(v - w, along_y, along_z, total_variation, stretch, floor) * (v - w)

    w = _voxels(volume, before, behind, z, x, y_down, nx, ny, valid, BEFORE, BEHIND)
    along_x = _voxels(volume, before, behind, z, x_up, y_down, nx, ny, valid, BEFORE, BEHIND) - w
    along_z = _voxels(volume, before, behind, z_up, x, y_down, nx, ny, valid, BEFORE, BEHIND) - w
    uphill += _factor(along_x, v - w, along_z, total_variation, stretch, floor) * (v - w)

    w = _voxels(volume, before, behind, z_down, x, y, nx, ny, valid, BEFORE, BEHIND)
    along_x = _voxels(volume, before, behind, z_down, x_up, y, nx, ny, valid, BEFORE, BEHIND) - w
    along_y = _voxels(volume, before, behind, z_down, x, y_up, nx, ny, valid, BEFORE, BEHIND) - w
    factor = _factor(along_x, along_y, v - w, total_variation, stretch, floor)
    return uphill + (factor * stretch + smoothness_z) * (v - w)


@triton.jit
def _moved(
    volume, gradient, first, second, before, behind, z, x, y, nz, nx, ny, valid, factor, numbers,
    length, momentum, squares, total_variation, stretch, floor, smoothness_z, magnitude,
    ADAM: tl.constexpr, MAGNITUDE: tl.constexpr, DIFFERENCES: tl.constexpr, BEFORE: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """Return the updated voxels of a part, and store their moments."""
    at = ((tl.full((), 0, tl.int64) + z) * nx + x) * ny + y
    value = tl.load(volume + at, mask=valid, other=0.0)
    uphill = tl.load(gradient + at, mask=valid, other=0.0) * tl.load(numbers)
    if MAGNITUDE:
        uphill += magnitude * ((value > 0).to(tl.float32) - (value < 0).to(tl.float32))
    if DIFFERENCES:
        uphill += _uphill(
            volume, before, behind, z, x, y, nz, nx, ny, valid, total_variation, stretch, floor, smoothness_z,
            BEFORE, BEHIND,
        )  # fmt: skip
    uphill *= factor
    mean = tl.load(first + at, mask=valid, other=0.0)
    if ADAM:
        mean += (1.0 - momentum) * (uphill - mean)
        square = squares * tl.load(second + at, mask=valid, other=0.0) + (1.0 - squares) * uphill * uphill
        tl.store(second + at, square, mask=valid)
        # Bias corrections of the moments, and the floor of the root.
        root = tl.sqrt(square) * tl.load(numbers + 2) + tl.load(numbers + 3)
        value -= length * tl.load(numbers + 1) * mean / root
    else:
        mean = momentum * mean + uphill
        value -= length * (uphill + momentum * mean)
    tl.store(first + at, mean, mask=valid)
    return value


@triton.jit
def move_voxels(
    volume, gradient, first, second, before, behind, weight, support, numbers, nz, nx, ny,
    weight_z, weight_x, weight_y, support_z, support_x, support_y,
    length, momentum, squares, total_variation, stretch, floor, smoothness_z, magnitude, least, most,
    PARTS: tl.constexpr, ADAM: tl.constexpr, MAGNITUDE: tl.constexpr, DIFFERENCES: tl.constexpr,
    BEFORE: tl.constexpr, BEHIND: tl.constexpr, WEIGHTED: tl.constexpr, SUPPORTED: tl.constexpr,
    POSITIVE: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, X: tl.constexpr, Y: tl.constexpr,
):  # fmt: skip
    """Write the updated δ, and β if there is one, over the gradient."""
    y = tl.program_id(0) * Y + tl.arange(0, Y)[None, :]
    x = tl.program_id(1) * X + tl.arange(0, X)[:, None]
    z = tl.program_id(2)
    valid = (x < nx) & (y < ny)
    zero = tl.full((), 0, tl.int64)
    factor = 1.0
    if WEIGHTED:
        factor = tl.load(weight + (zero + z) * weight_z + x * weight_x + y * weight_y, mask=valid, other=0.0)
    delta = _moved(
        volume, gradient, first, second, before, behind, z, x, y, nz, nx, ny, valid, factor, numbers,
        length, momentum, squares, total_variation, stretch, floor, smoothness_z, magnitude,
        ADAM, MAGNITUDE, DIFFERENCES, BEFORE, BEHIND,
    )  # fmt: skip
    beta = delta
    rows = (zero + nz) * nx
    if PARTS == 2:
        part = rows * ny
        beta = _moved(
            volume + part, gradient + part, first + part, second + part, before + rows, behind + rows,
            z, x, y, nz, nx, ny, valid, factor, numbers,
            length, momentum, squares, total_variation, stretch, floor, smoothness_z, magnitude,
            ADAM, MAGNITUDE, DIFFERENCES, BEFORE, BEHIND,
        )  # fmt: skip
        # Same operations and order as ``bounds.apply_bounds``.
        if MOST:
            matter = (delta > 0) | POSITIVE
            beyond = matter & (beta > most * delta)
            nearest = tl.maximum((delta + most * beta) / (1.0 + most * most), 0.0)
            delta, beta = tl.where(beyond, nearest, delta), tl.where(beyond, most * nearest, beta)
            beta = tl.where(matter, beta, tl.minimum(beta, 0.0))
        if LEAST:
            matter = (delta > 0) | POSITIVE
            beyond = matter & (beta < least * delta)
            nearest = tl.maximum((delta + least * beta) / (1.0 + least * least), 0.0)
            delta, beta = tl.where(beyond, nearest, delta), tl.where(beyond, least * nearest, beta)
            beta = tl.where(matter, beta, tl.maximum(beta, 0.0))
    if POSITIVE:
        # Written so that NaN is preserved.
        delta, beta = tl.where(delta < 0, 0.0, delta), tl.where(beta < 0, 0.0, beta)
    if SUPPORTED:
        inside = tl.load(support + (zero + z) * support_z + x * support_x + y * support_y, mask=valid, other=0)
        delta, beta = delta * inside.to(tl.float32), beta * inside.to(tl.float32)
    at = ((zero + z) * nx + x) * ny + y
    tl.store(gradient + at, delta, mask=valid)
    if PARTS == 2:
        tl.store(gradient + rows * ny + at, beta, mask=valid)


@dataclass(frozen=True, eq=False)
class PriorTerm:
    """Regularisers of a volume in one step, with the neighbouring rows.

    Attributes:
        weights: regulariser weights per voxel.
        before: row (part, z, 0 or 1, x) before the stored rows.
        behind: row after the stored rows.
        pixels: 0-d, number of pixels by which the gradient is divided.
    """

    weights: Weights
    before: Tensor
    behind: Tensor
    pixels: Tensor


def move(
    volume: Tensor, gradient: Tensor, moments: Moments, prior: PriorTerm, weight: Tensor | None, bounds: Bounds
) -> None:
    """Write the updated volume over the gradient; the volume itself is unchanged.

    Args:
        volume: float32 (part, z, y, x), y contiguous in memory.
        gradient: same shape and layout.
        moments: inputs of the step, updated in place.
        prior: regularisers.
        weight: factor on the sum of all gradients, broadcasts to (z, y, x); None: 1.
        bounds: bounds of the volume.
    """
    parts, nz, ny, nx = volume.shape
    numbers = torch.stack([prior.pixels.double().reciprocal(), *moments.numbers]).float()
    before, behind, weights = prior.before.contiguous(), prior.behind.contiguous(), prior.weights
    # The volume stands in for missing tensors; the kernel does not read them.
    first, second = (*moments.tensors, volume)[:2]
    weights_tensor, weight_strides = _spread(weight, volume)
    support, support_strides = _spread(None if bounds.support is None else bounds.support.view(torch.uint8), volume)
    move_voxels[triton.cdiv(ny, _Y), triton.cdiv(nx, _X), nz](
        volume, gradient, first, second, before, behind, weights_tensor, support, numbers, nz, nx, ny,
        *weight_strides, *support_strides,
        moments.length, moments.momentum, moments.squares, *weights, bounds.least or 0.0, bounds.most or 0.0,
        PARTS=parts, ADAM=len(moments.tensors) == 2, MAGNITUDE=weights.magnitude > 0,
        DIFFERENCES=max(weights.total_variation, weights.smoothness_z) > 0,
        BEFORE=before.numel() > 0, BEHIND=behind.numel() > 0, WEIGHTED=weight is not None,
        SUPPORTED=bounds.support is not None, POSITIVE=bounds.positivity,
        LEAST=bounds.least is not None, MOST=bounds.most is not None, X=_X, Y=_Y, num_warps=_WARPS,
    )  # fmt: skip


def _spread(given: Tensor | None, volume: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return a tensor that broadcasts to (z, y, x), or a placeholder, and its strides along z, x and y."""
    if given is None:
        return volume, (0, 0, 0)
    along_z, along_y, along_x = given.expand(volume.shape[1:]).stride()
    return given, (along_z, along_x, along_y)
