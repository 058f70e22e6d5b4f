"""Rotation in the planes (z, x) on an accelerator without matrices: weights are computed in registers (Triton).

The conventions are those of ``taps.py``. A rotated pixel gathers its weighted neighbours. The transpose gathers too: a
voxel loops over the rotated pixels near its rotated position and recomputes the weight that each of them gives it.
There are no atomic additions, so results are reproducible bit by bit.

Positions are integers in units of 2⁻⁴¹ pixels. Single precision would have errors of 10⁻⁴ pixels at the edge of 2048
pixels, and double precision is slow on many devices. Integers are exact, so the transpose finds the same neighbours.
"""

# Triton assigns types to kernel arguments at compile time; pyright does not know them.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.layout import with_y_last
from bluesky_multislice.optics.taps import KERNELS, KernelName

_X, _Y = 16, 64
"""Pixels along x and y per program."""

_UNIT = 40
"""Cosine and sine are in units of 2⁻⁴⁰. They multiply twice the distance from the centre, which is an integer."""


@triton.jit
def _value(distance, REACH: tl.constexpr):
    """Return the weight of a neighbour, see ``taps.KERNELS``."""
    d = tl.abs(distance)
    value = 1.0 - d
    if REACH == 2:
        value = tl.where(d <= 1.0, (1.5 * d - 2.5) * d * d + 1.0, ((2.5 - 0.5 * d) * d - 4.0) * d + 2.0)
    return value


@triton.jit
def _slope(distance, behind, REACH: tl.constexpr):
    """Return the derivative of the weight in the pixel's position; ``behind``: the neighbour has the larger index."""
    d = tl.abs(distance)
    slope = 0.0 * d - 1.0
    if REACH == 2:
        slope = tl.where(d <= 1.0, (4.5 * d - 5.0) * d, (5.0 - 1.5 * d) * d - 4.0)
    return tl.where(behind, -slope, slope)


@triton.jit
def _sample(rotation, plane, x, nz, nx):
    """Return the sample position (z, x) that lab pixels see, from the centre, in units of 2⁻⁴¹ pixels."""
    cosine, sine = tl.load(rotation), tl.load(rotation + 1)
    twice_z, twice_x = 2 * plane - (nz - 1), 2 * x - (nx - 1)
    return twice_x * sine + twice_z * cosine, twice_x * cosine - twice_z * sine


@triton.jit
def _from_first(sample, n):
    """Return the index of the pixel at or before a position, and the distance of the position from it in pixels."""
    place = sample + ((tl.full((), 0, tl.int64) + n - 1) << 40)
    return (place >> 41).to(tl.int32), ((place >> 17) & 0xFFFFFF).to(tl.float32) * 5.960464477539063e-08


@triton.jit
def _weight(sample_z, sample_x, z, x, above, beside, REACH: tl.constexpr, SLOPE: tl.constexpr):
    """Return the weight of the neighbour at offset (above, beside) from 1 − REACH to REACH, or its derivative in θ.

    ``z`` and ``x`` are the distances from ``_from_first``.
    """
    value_z, value_x = _value(z - above, REACH), _value(x - beside, REACH)
    weight = value_z * value_x
    if SLOPE:
        slope_z, slope_x = _slope(z - above, above > 0, REACH), _slope(x - beside, beside > 0, REACH)
        per_pixel: tl.constexpr = 4.547473508864641e-13
        weight = slope_z * (sample_x.to(tl.float32) * per_pixel) * value_x
        weight -= value_z * slope_x * (sample_z.to(tl.float32) * per_pixel)
    return weight


@triton.jit
def rotate_planes(
    volume, image, rotation, nz, ny, nx, slices, along_y, along_x,
    REACH: tl.constexpr, SLOPE: tl.constexpr, X: tl.constexpr, Y: tl.constexpr,
):  # fmt: skip
    """Write pixels of a slice, the mean of its rotated planes. The volume has y last, the slice any strides."""
    x = tl.program_id(0) * X + tl.arange(0, X)
    y = tl.program_id(1) * Y + tl.arange(0, Y)
    here = tl.program_id(2)
    begin, end = tl.cdiv(here * nz, slices), tl.cdiv((here + 1) * nz, slices)
    total = tl.zeros((X, Y), tl.float32)
    for plane in range(begin, end):
        sample_z, sample_x = _sample(rotation, plane, x, nz, nx)
        i, beyond_i = _from_first(sample_z, nz)
        j, beyond_j = _from_first(sample_x, nx)
        for above in tl.static_range(1 - REACH, 1 + REACH):
            for beside in tl.static_range(1 - REACH, 1 + REACH):
                weight = _weight(sample_z, sample_x, beyond_i, beyond_j, above, beside, REACH, SLOPE)
                exists = (i + above >= 0) & (i + above < nz) & (j + beside >= 0) & (j + beside < nx)
                row = ((i + above).to(tl.int64) * nx + (j + beside)) * ny
                valid = exists[:, None] & (y < ny)[None, :]
                total += weight[:, None] * tl.load(volume + row[:, None] + y[None, :], mask=valid, other=0.0)
    place = (tl.full((), 0, tl.int64) + here) * ny * nx + x[:, None] * along_x + y[None, :] * along_y
    tl.store(image + place, total / (end - begin), mask=(x < nx)[:, None] & (y < ny)[None, :])


@triton.jit
def rotate_planes_transposed(
    image, volume, rotation, nz, ny, nx, slices, REACH: tl.constexpr, X: tl.constexpr, Y: tl.constexpr
):
    """Write voxels of the transpose of ``rotate_planes`` applied to slices; both have y last."""
    j = tl.program_id(0) * X + tl.arange(0, X)
    y = tl.program_id(1) * Y + tl.arange(0, Y)
    i = tl.program_id(2)
    cosine, sine = tl.load(rotation), tl.load(rotation + 1)
    twice_i, twice_j = 2 * i - (nz - 1), 2 * j - (nx - 1)
    # Rotated pixels that use this voxel are within √2 times the reach of its position in the lab frame.
    candidates: tl.constexpr = 3 * REACH
    first_plane, _ = _from_first(twice_i * cosine - twice_j * sine - REACH * 3110078590327, nz)
    first_x, _ = _from_first(twice_j * cosine + twice_i * sine - REACH * 3110078590327, nx)
    total = tl.zeros((X, Y), tl.float32)
    for a in range(candidates):
        plane = first_plane + 1 + a
        here = tl.minimum(tl.maximum(plane, 0), nz - 1) * slices // nz
        planes = tl.cdiv((here + 1) * nz, slices) - tl.cdiv(here * nz, slices)
        for b in range(candidates):
            x = first_x + 1 + b
            sample_z, sample_x = _sample(rotation, plane, x, nz, nx)
            near_i, beyond_i = _from_first(sample_z, nz)
            near_j, beyond_j = _from_first(sample_x, nx)
            above, beside = i - near_i, j - near_j
            weight = _weight(sample_z, sample_x, beyond_i, beyond_j, above, beside, REACH, False) / planes
            counts = (above > -REACH) & (above <= REACH) & (beside > -REACH) & (beside <= REACH)
            counts = counts & (plane >= 0) & (plane < nz) & (x >= 0) & (x < nx)
            row = (here.to(tl.int64) * nx + x) * ny
            valid = counts[:, None] & (y < ny)[None, :]
            weight = tl.where(counts, weight, 0.0)
            total += weight[:, None] * tl.load(image + row[:, None] + y[None, :], mask=valid, other=0.0)
    place = ((tl.full((), 0, tl.int64) + i) * nx + j[:, None]) * ny + y[None, :]
    tl.store(volume + place, total, mask=(j < nx)[:, None] & (y < ny)[None, :])


def rotate_volume(volume: Tensor, angle_rad: float | Tensor, slices: int, kernel: KernelName = "linear") -> Tensor:
    """Return (slice, y, x): the volume rotated by interpolation, with its planes averaged into slices.

    Args:
        volume: float32 (z, y, x), read without a copy if y is contiguous in memory.
        angle_rad: θ; differentiable as a 0-d tensor.
        slices: number of slices, which share the planes as evenly as possible.
        kernel: interpolation kernel.
    """
    if isinstance(angle_rad, Tensor):
        return _Rotation.apply(volume, angle_rad.to(volume.device, torch.float64), slices, kernel)
    # Filled on the device, without a copy from the host.
    angle = torch.full((), angle_rad, dtype=torch.float64, device=volume.device)
    return _Rotation.apply(volume, angle, slices, kernel)


class _Rotation(torch.autograd.Function):
    """A rotation; the gradient with respect to the volume is its transpose, with y last in memory."""

    @staticmethod
    def forward(ctx, volume: Tensor, angle_rad: Tensor, slices: int, kernel: KernelName) -> Tensor:
        units = torch.stack((angle_rad.cos(), angle_rad.sin())).mul_(2.0**_UNIT).round_().to(torch.int64)
        ctx.planes, ctx.kernel = len(volume), kernel
        ctx.save_for_backward(units, volume if ctx.needs_input_grad[1] else None)
        return rotated(volume, units, slices, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (image,), (units, volume) = gradients, ctx.saved_tensors
        in_volume = in_angle = None
        if ctx.needs_input_grad[0]:
            in_volume = rotated_transpose(image, units, ctx.planes, ctx.kernel)
        if ctx.needs_input_grad[1]:
            in_angle = (image * rotated(volume, units, len(image), ctx.kernel, slope=True)).sum(dtype=torch.float64)
        return in_volume, in_angle, None, None


def rotated(volume: Tensor, units: Tensor, slices: int, kernel: KernelName, *, slope: bool = False) -> Tensor:
    """Return (slice, y, x), or its derivative in θ.

    Args:
        volume: (z, y, x).
        units: int64 (2,) cosine and sine of θ in units of 2⁻⁴⁰, on the volume's device.
        slices: number of slices.
        kernel: interpolation kernel.
        slope: return the derivative.
    """
    nz, ny, nx = volume.shape
    image = volume.new_empty(slices, ny, nx)
    rotate_planes[triton.cdiv(nx, _X), triton.cdiv(ny, _Y), slices](
        with_y_last(volume),
        image,
        units,
        nz,
        ny,
        nx,
        slices,
        nx,
        1,
        REACH=KERNELS[kernel].reach,
        SLOPE=slope,
        X=_X,
        Y=_Y,
    )
    return image


def rotated_transpose(image: Tensor, units: Tensor, planes: int, kernel: KernelName) -> Tensor:
    """Return the transpose of ``rotated`` applied to slices (slice, y, x): (z, y, x) with y last in memory."""
    slices, ny, nx = image.shape
    volume = image.new_empty(planes, nx, ny).mT
    rotate_planes_transposed[triton.cdiv(nx, _X), triton.cdiv(ny, _Y), planes](
        with_y_last(image), volume, units, planes, ny, nx, slices, REACH=KERNELS[kernel].reach, X=_X, Y=_Y
    )
    return volume
