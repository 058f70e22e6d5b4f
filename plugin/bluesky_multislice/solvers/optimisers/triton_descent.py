"""Prior, optimiser and bounds of a volume on an accelerator in one pass over it, compiled by Triton.

A voxel's regularisers look at its neighbours, which must not have moved yet. So the moved volume is written over the
gradient, at whose other voxels nobody looks, and both exchange their memory: no second volume is needed.
"""

# Triton's compiler gives the arguments of kernels their types, which pyright does not know.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluesky_multislice.solvers.optimisers.descent import Moments
from bluesky_multislice.solvers.priors import Bounds, Weights

_X, _Y = 8, 64
"""Voxels along x and y that a program works on: few of the neighbours that it reads belong to others."""

_WARPS = 8
"""Two voxels for each thread: with four, half as many threads find registers, as compiled for sm_90."""


@triton.jit
def _voxels(volume, before, behind, z, x, y, nx, ny, valid, BEFORE: tl.constexpr, BEHIND: tl.constexpr):
    """Return voxels of a plane, whose rows −1 and ny, where there are any, other ranks hold."""
    row = (tl.full((), 0, tl.int64) + z) * nx + x
    found = tl.load(volume + row * ny + y, mask=valid & (y >= 0) & (y < ny), other=0.0)
    if BEFORE:
        found += tl.load(before + row + 0 * y, mask=valid & (y < 0), other=0.0)
    if BEHIND:
        found += tl.load(behind + row + 0 * y, mask=valid & (y >= ny), other=0.0)
    return found


@triton.jit
def _factor(along_x, along_y, along_z, total_variation, stretch, floor):
    """Return what total variation makes of a difference: its weight over the length of the gradient."""
    square = along_x * along_x + along_y * along_y + stretch * (along_z * along_z) + floor
    return total_variation / tl.sqrt(square)


@triton.jit
def _uphill(
    volume, before, behind, z, x, y, nz, nx, ny, valid, total_variation, stretch, floor, smoothness_z,
    BEFORE: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """Return the gradient of total variation and smoothness: of the differences from and to a voxel."""
    # At an end of the volume the neighbour is the voxel itself, and there is no difference.
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
    ADAM: tl.constexpr, PULLED: tl.constexpr, DIFFERENCES: tl.constexpr, BEFORE: tl.constexpr, BEHIND: tl.constexpr,
):  # fmt: skip
    """Return where voxels of a part go, and write their moments."""
    at = ((tl.full((), 0, tl.int64) + z) * nx + x) * ny + y
    value = tl.load(volume + at, mask=valid, other=0.0)
    uphill = tl.load(gradient + at, mask=valid, other=0.0) * tl.load(numbers)
    if PULLED:
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
        # The moments' bias, and the floor of the root.
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
    PARTS: tl.constexpr, ADAM: tl.constexpr, PULLED: tl.constexpr, DIFFERENCES: tl.constexpr,
    BEFORE: tl.constexpr, BEHIND: tl.constexpr, WEIGHTED: tl.constexpr, SUPPORTED: tl.constexpr,
    POSITIVE: tl.constexpr, LEAST: tl.constexpr, MOST: tl.constexpr, X: tl.constexpr, Y: tl.constexpr,
):  # fmt: skip
    """Write over the gradient where δ, and β where there is one, go to."""
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
        ADAM, PULLED, DIFFERENCES, BEFORE, BEHIND,
    )  # fmt: skip
    beta = delta
    rows = (zero + nz) * nx
    if PARTS == 2:
        part = rows * ny
        beta = _moved(
            volume + part, gradient + part, first + part, second + part, before + rows, behind + rows,
            z, x, y, nz, nx, ny, valid, factor, numbers,
            length, momentum, squares, total_variation, stretch, floor, smoothness_z, magnitude,
            ADAM, PULLED, DIFFERENCES, BEFORE, BEHIND,
        )  # fmt: skip
        # As ``regularisers.bound`` does it, and in its order.
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
        # Written so that what is not a number stays so.
        delta, beta = tl.where(delta < 0, 0.0, delta), tl.where(beta < 0, 0.0, beta)
    if SUPPORTED:
        inside = tl.load(support + (zero + z) * support_z + x * support_x + y * support_y, mask=valid, other=0)
        delta, beta = delta * inside.to(tl.float32), beta * inside.to(tl.float32)
    at = ((zero + z) * nx + x) * ny + y
    tl.store(gradient + at, delta, mask=valid)
    if PARTS == 2:
        tl.store(gradient + rows * ny + at, beta, mask=valid)


@dataclass(frozen=True, eq=False)
class Pull:
    """What pulls at a volume beside its bounds.

    Attributes:
        weights: of the regularisers, of one voxel.
        before: the row (part, z, 0 or 1, x) before those held.
        behind: the row behind those held.
        pixels: 0-d, what the gradient is divided by.
    """

    weights: Weights
    before: Tensor
    behind: Tensor
    pixels: Tensor


def move(volume: Tensor, gradient: Tensor, moments: Moments, pull: Pull, weight: Tensor | None, bounds: Bounds) -> None:
    """Write over the gradient where a volume goes; the volume stays as it is.

    Args:
        volume: float32 (part, z, y, x) with y last in memory.
        gradient: the same.
        moments: they move, too.
        pull: what pulls at it.
        weight: factor on that, broadcasts to (z, y, x); None: 1.
        bounds: what the volume is kept within.
    """
    parts, nz, ny, nx = volume.shape
    numbers = torch.stack([pull.pixels.double().reciprocal(), *moments.numbers]).float()
    before, behind, weights = pull.before.contiguous(), pull.behind.contiguous(), pull.weights
    # What is not there is stood for by the volume: the kernel does not read it.
    first, second = (*moments.tensors, volume)[:2]
    weighing, weight_strides = _spread(weight, volume)
    support, support_strides = _spread(None if bounds.support is None else bounds.support.view(torch.uint8), volume)
    move_voxels[triton.cdiv(ny, _Y), triton.cdiv(nx, _X), nz](
        volume, gradient, first, second, before, behind, weighing, support, numbers, nz, nx, ny,
        *weight_strides, *support_strides,
        moments.length, moments.momentum, moments.squares, *weights, bounds.least or 0.0, bounds.most or 0.0,
        PARTS=parts, ADAM=len(moments.tensors) == 2, PULLED=weights.magnitude > 0,
        DIFFERENCES=max(weights.total_variation, weights.smoothness_z) > 0,
        BEFORE=before.numel() > 0, BEHIND=behind.numel() > 0, WEIGHTED=weight is not None,
        SUPPORTED=bounds.support is not None, POSITIVE=bounds.positivity,
        LEAST=bounds.least is not None, MOST=bounds.most is not None, X=_X, Y=_Y, num_warps=_WARPS,
    )  # fmt: skip


def _spread(given: Tensor | None, volume: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Return a tensor that broadcasts to (z, y, x), and its strides along z, x and y."""
    if given is None:
        return volume, (0, 0, 0)
    along_z, along_y, along_x = given.expand(volume.shape[1:]).stride()
    return given, (along_z, along_x, along_y)
