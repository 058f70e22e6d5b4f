"""Turns in the planes (z, x) on an accelerator, without matrices: weights are made in registers, compiled by Triton.

The conventions are those of ``taps.py``. A turned pixel gathers its weighted neighbours. The transpose gathers
too: a voxel looks at the turned pixels near its own place, and takes from each what that pixel has taken from it, by
the same arithmetic. Nothing is added atomically, so runs repeat bit by bit.

Places are integers, multiples of 2⁻⁴¹ pixels: single precision is wrong by 10⁻⁴ pixels at the edge of 2048, double
precision slow on many devices. Integers are exact, so that the transpose sees the same neighbours everywhere.
"""

# Triton's compiler gives the arguments of kernels their types, which pyright does not know.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.layout import with_y_last
from bluesky_multislice.optics.taps import KERNELS, KernelName

_X, _Y = 16, 64
"""Pixels along x and y that a program works on."""

_UNIT = 40
"""Cosine and sine are multiples of 2⁻⁴⁰. They multiply twice the distance from the middle, which is an integer."""


@triton.jit
def _value(distance, REACH: tl.constexpr):
    """Return what a neighbour counts, see ``taps.KERNELS``."""
    d = tl.abs(distance)
    value = 1.0 - d
    if REACH == 2:
        value = tl.where(d <= 1.0, (1.5 * d - 2.5) * d * d + 1.0, ((2.5 - 0.5 * d) * d - 4.0) * d + 2.0)
    return value


@triton.jit
def _slope(distance, behind, REACH: tl.constexpr):
    """Return the derivative of that in the place of the pixel; ``behind``: the neighbour lies behind it."""
    d = tl.abs(distance)
    slope = 0.0 * d - 1.0
    if REACH == 2:
        slope = tl.where(d <= 1.0, (4.5 * d - 5.0) * d, (5.0 - 1.5 * d) * d - 4.0)
    return tl.where(behind, -slope, slope)


@triton.jit
def _sample(turn, plane, x, nz, nx):
    """Return twice the place (z, x) of the sample that lab pixels see, from the middle, in units of 2⁻⁴¹ pixels."""
    cosine, sine = tl.load(turn), tl.load(turn + 1)
    twice_z, twice_x = 2 * plane - (nz - 1), 2 * x - (nx - 1)
    return twice_x * sine + twice_z * cosine, twice_x * cosine - twice_z * sine


@triton.jit
def _from_first(sample, n):
    """Return the pixel at or before a place, counted from the first of n, and how far behind it the place is."""
    place = sample + ((tl.full((), 0, tl.int64) + n - 1) << 40)
    return (place >> 41).to(tl.int32), ((place >> 17) & 0xFFFFFF).to(tl.float32) * 5.960464477539063e-08


@triton.jit
def _weight(sample_z, sample_x, z, x, above, beside, REACH: tl.constexpr, SLOPE: tl.constexpr):
    """Return what the neighbour so many pixels further counts for a place, or the derivative of that in θ.

    ``z`` and ``x`` are from ``_from_first``; the neighbours are those from 1 − REACH to REACH.
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
def turn_planes(
    volume, image, turn, nz, ny, nx, slices, along_y, along_x,
    REACH: tl.constexpr, SLOPE: tl.constexpr, X: tl.constexpr, Y: tl.constexpr,
):  # fmt: skip
    """Write pixels of a slice: the mean of its turned planes, of a volume with y last; the slice's strides are free."""
    x = tl.program_id(0) * X + tl.arange(0, X)
    y = tl.program_id(1) * Y + tl.arange(0, Y)
    here = tl.program_id(2)
    begin, end = tl.cdiv(here * nz, slices), tl.cdiv((here + 1) * nz, slices)
    total = tl.zeros((X, Y), tl.float32)
    for plane in range(begin, end):
        sample_z, sample_x = _sample(turn, plane, x, nz, nx)
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
def turn_planes_back(image, volume, turn, nz, ny, nx, slices, REACH: tl.constexpr, X: tl.constexpr, Y: tl.constexpr):
    """Write voxels: what the transpose of ``turn_planes`` makes of slices; both lie with y last."""
    j = tl.program_id(0) * X + tl.arange(0, X)
    y = tl.program_id(1) * Y + tl.arange(0, Y)
    i = tl.program_id(2)
    cosine, sine = tl.load(turn), tl.load(turn + 1)
    twice_i, twice_j = 2 * i - (nz - 1), 2 * j - (nx - 1)
    # Pixels for which a voxel counts lie within a circle of √2 times the reach about the place where the lab has it.
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
            sample_z, sample_x = _sample(turn, plane, x, nz, nx)
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


def turn(volume: Tensor, angle_rad: float | Tensor, slices: int, kernel: KernelName = "linear") -> Tensor:
    """Return (slice, y, x): the volume turned by interpolation, its planes averaged in slices.

    Args:
        volume: float32 (z, y, x), read as it is where y lies last in memory.
        angle_rad: θ; differentiable as a 0-d tensor.
        slices: slices that share the planes as evenly as they can.
        kernel: of the interpolation.
    """
    if isinstance(angle_rad, Tensor):
        return _Turn.apply(volume, angle_rad.to(volume.device, torch.float64), slices, kernel)
    # Filled on the device, without a copy from the host.
    angle = torch.full((), angle_rad, dtype=torch.float64, device=volume.device)
    return _Turn.apply(volume, angle, slices, kernel)


class _Turn(torch.autograd.Function):
    """A turn, whose gradient in the volume is its transpose, and has y last in memory."""

    @staticmethod
    def forward(ctx, volume: Tensor, angle_rad: Tensor, slices: int, kernel: KernelName) -> Tensor:
        units = torch.stack((angle_rad.cos(), angle_rad.sin())).mul_(2.0**_UNIT).round_().to(torch.int64)
        ctx.planes, ctx.kernel = len(volume), kernel
        ctx.save_for_backward(units, volume if ctx.needs_input_grad[1] else None)
        return turned(volume, units, slices, kernel)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (image,), (units, volume) = gradients, ctx.saved_tensors
        in_volume = in_angle = None
        if ctx.needs_input_grad[0]:
            in_volume = turned_back(image, units, ctx.planes, ctx.kernel)
        if ctx.needs_input_grad[1]:
            in_angle = (image * turned(volume, units, len(image), ctx.kernel, slope=True)).sum(dtype=torch.float64)
        return in_volume, in_angle, None, None


def turned(volume: Tensor, units: Tensor, slices: int, kernel: KernelName, *, slope: bool = False) -> Tensor:
    """Return (slice, y, x), or its derivative in θ.

    Args:
        volume: (z, y, x).
        units: int64 (2,) cosine and sine of θ in units of 2⁻⁴⁰, on the volume's device.
        slices: how many.
        kernel: of the interpolation.
        slope: return the derivative.
    """
    nz, ny, nx = volume.shape
    image = volume.new_empty(slices, ny, nx)
    turn_planes[triton.cdiv(nx, _X), triton.cdiv(ny, _Y), slices](
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


def turned_back(image: Tensor, units: Tensor, planes: int, kernel: KernelName) -> Tensor:
    """Return what the transpose of ``turned`` makes of slices (slice, y, x): (z, y, x) with y last in memory."""
    slices, ny, nx = image.shape
    volume = image.new_empty(planes, nx, ny).mT
    turn_planes_back[triton.cdiv(nx, _X), triton.cdiv(ny, _Y), planes](
        with_y_last(image), volume, units, planes, ny, nx, slices, REACH=KERNELS[kernel].reach, X=_X, Y=_Y
    )
    return volume
