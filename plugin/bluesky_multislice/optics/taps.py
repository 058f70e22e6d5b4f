"""Neighbours and weights for interpolation in planes (z, x), and rotations computed with them on the volume's device.

A rotated pixel is a weighted sum of its neighbours in the sample. In the transpose, a pixel of the sample sums the
rotated pixels that have it as a neighbour; these lie in a square around its rotated position. Both directions gather a
fixed number of terms per pixel, so the order of every sum is fixed and results are reproducible bit by bit.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.optics.layout import has_y_last

KernelName = Literal["linear", "cubic"]


class Kernel(NamedTuple):
    """Interpolation weight of a neighbour as a function of its distance in pixels along one axis.

    Attributes:
        reach: number of neighbours on either side with a weight.
        value: weight for distances up to the reach.
        slope: derivative of the weight.
    """

    reach: int
    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]


KERNELS: dict[KernelName, Kernel] = {
    "linear": Kernel(1, lambda d: 1 - d, lambda d: -torch.ones_like(d)),
    # Cubic convolution, a = −1/2: Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981).
    "cubic": Kernel(
        2,
        lambda d: torch.where(d <= 1, (1.5 * d - 2.5) * d**2 + 1, ((2.5 - 0.5 * d) * d - 4) * d + 2),
        lambda d: torch.where(d <= 1, (4.5 * d - 5) * d, (5 - 1.5 * d) * d - 4),
    ),
}
"""Interpolation kernels along one axis."""


_AT_ONCE = 2**24
"""Largest number of neighbours computed together; each takes 16 bytes, and as much for intermediate values."""

Angle = float | Tensor


class Rotation(NamedTuple):
    """A rotation in planes (z, x).

    Attributes:
        planes: planes of the volume; plane p is averaged into slice p·slices // planes.
        slices: slices of the rotated volume.
        nx: pixels along x.
        angle_rad: θ; a tensor is on the volume's device.
        kernel: interpolation kernel.
        slope: True for the derivative in θ.
    """

    planes: int
    slices: int
    nx: int
    angle_rad: Angle
    kernel: Kernel
    slope: bool = False


def rotate_planes(volume: Tensor, rotation: Rotation) -> Tensor:
    """Return the volume (z, y, x) rotated and averaged into (slice, y, x); the gradient is the exact transpose."""
    return _Gathered.apply(volume, rotation)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume: Tensor, rotation: Rotation) -> Tensor:
        ctx.rotation, ctx.y_last = rotation, has_y_last(volume)
        most = -(-rotation.planes // rotation.slices) * (2 * rotation.kernel.reach) ** 2
        return _sums(volume, rotation, _neighbours_in_sample, (rotation.slices, most), y_last=False)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        number = ctx.rotation.planes, len(_candidates(ctx.rotation)) ** 2
        return _sums(gradients[0], ctx.rotation, _neighbours_in_slices, number, y_last=ctx.y_last), None


def neighbours(
    plane: Tensor, shape: tuple[int, int], angle_rad: Angle, kernel: Kernel, *, slope: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the neighbours of the pixels of rotated planes, one neighbour of every pixel at a time.

    Args:
        plane: (…,) indices of the rotated planes along z.
        shape: pixels (z, x) of the sample's planes.
        angle_rad: θ.
        kernel: interpolation kernel.
        slope: whether the weights are derivatives in θ.

    Yields:
        flat index z·nx + x in the sample, weight (product of the kernels along z and x), and whether the neighbour
        exists with a nonzero weight; (…, x) each.
    """
    lab = plane[..., None], torch.arange(shape[1], device=plane.device)
    at = _sample_position(lab, shape, angle_rad)
    offsets = range(1 - kernel.reach, 1 + kernel.reach)
    for offset in itertools.product(offsets, offsets):
        there = at[0].floor().long() + offset[0], at[1].floor().long() + offset[1]
        weight = _weight(at, there, shape, kernel, slope=slope)
        yield there[0] * shape[1] + there[1], weight, _inside(there, shape) & (weight != 0)


def _sums(
    planes: Tensor,
    rotation: Rotation,
    neighbours_of: Callable[[Rotation, Tensor], tuple[Tensor, Tensor]],
    sizes: tuple[int, int],
    *,
    y_last: bool,
) -> Tensor:
    """Return (plane, y, x): weighted sums of rows z·nx + x of planes (z, y, x).

    Args:
        planes: (z, y, x).
        rotation: the rotation.
        neighbours_of: returns flat indices and weights of the neighbours, for given planes of the result.
        sizes: number of planes of the result, and of neighbours per pixel.
        y_last: whether y of the result is contiguous in memory.
    """
    (number, most), (_, ny, nx) = sizes, planes.shape
    rows = planes.mT.reshape(-1, ny)
    image = planes.new_empty(number, nx, ny).mT if y_last else planes.new_empty(number, ny, nx)
    at_once = max(1, _AT_ONCE // (nx * most))
    for first in range(0, number, at_once):
        last = min(first + at_once, number)
        place, weight = neighbours_of(rotation, torch.arange(first, last, device=planes.device))
        sums = functional.embedding_bag(
            place.flatten(0, 1), rows, mode="sum", per_sample_weights=weight.flatten(0, 1).to(rows.dtype)
        )
        image[first:last] = sums.unflatten(0, (last - first, nx)).mT
    return image


def _neighbours_in_sample(rotation: Rotation, number: Tensor) -> tuple[Tensor, Tensor]:
    """Return flat indices in the sample and weights, (slice, x, neighbour) each, for the pixels of some slices."""
    first, end = (_first_plane(rotation, each) for each in (number, number + 1))
    most = -(-rotation.planes // rotation.slices)
    # A slice with one plane fewer than the others also lists the first plane of the next slice, with weight 0.
    plane = first[:, None] + torch.arange(most, device=number.device)
    share = ((plane < end[:, None]).double() / (end - first)[:, None])[..., None]
    places, weights = [], []
    shape = (rotation.planes, rotation.nx)
    for place, weight, inside in neighbours(plane, shape, rotation.angle_rad, rotation.kernel, slope=rotation.slope):
        counts = inside & (share > 0)
        places.append(torch.where(counts, place, 0))
        weights.append(torch.where(counts, weight * share, 0.0))
    return _of_each_pixel(places), _of_each_pixel(weights)


def _of_each_pixel(parts: list[Tensor]) -> Tensor:
    """Return (slice, x, neighbour) from parts (slice, plane, x), each with one neighbour per plane."""
    return torch.stack(parts, -1).transpose(1, 2).flatten(2)


def _neighbours_in_slices(rotation: Rotation, plane: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotated pixels that use each sample pixel: indices slice·nx + x and weights, (z, x, neighbour)."""
    shape = (rotation.planes, rotation.nx)
    sample = plane[:, None, None, None], torch.arange(rotation.nx, device=plane.device)[:, None, None]
    # The kernel's square of half-width reach, rotated, fits into a square of half-width √2·reach.
    around = _sample_position(sample, shape, -rotation.angle_rad)
    candidates = torch.arange(len(_candidates(rotation)), device=plane.device)
    half = len(candidates) / 2
    lab = (
        (around[0] - half).ceil().long() + candidates[:, None],
        (around[1] - half).ceil().long() + candidates,
    )
    at = _sample_position(lab, shape, rotation.angle_rad)
    weight = _weight(at, sample, shape, rotation.kernel, slope=rotation.slope)
    number = lab[0] * rotation.slices // rotation.planes
    share = 1 / (_first_plane(rotation, number + 1) - _first_plane(rotation, number)).double()
    near = [
        (-rotation.kernel.reach <= a - i) & (a - i < rotation.kernel.reach) for a, i in zip(at, sample, strict=True)
    ]
    counts = _inside(lab, shape) & near[0] & near[1]
    place = torch.where(counts, number * rotation.nx + lab[1], 0)
    return place.flatten(2), torch.where(counts, weight * share, 0.0).flatten(2)


def _candidates(rotation: Rotation) -> range:
    """Return the range of rotated pixels along an axis that may use a pixel of the sample."""
    return range(math.ceil(2 * math.sqrt(2) * rotation.kernel.reach))


def _first_plane(rotation: Rotation, number: Tensor) -> Tensor:
    """Return the first plane of the slices with these indices."""
    return (number * rotation.planes + rotation.slices - 1) // rotation.slices


def _sample_position(lab: tuple[Tensor, Tensor], shape: tuple[int, int], angle_rad: Angle) -> tuple[Tensor, Tensor]:
    """Return the sample positions (z, x), in pixels, that lab pixels (z, x) see; see ``optics.rotate``."""
    cosine, sine = (
        (torch.cos(angle_rad.double()), torch.sin(angle_rad.double()))
        if isinstance(angle_rad, Tensor)
        else (math.cos(angle_rad), math.sin(angle_rad))
    )
    middle = (shape[0] - 1) / 2, (shape[1] - 1) / 2
    z, x = (index.double() - m for index, m in zip(lab, middle, strict=True))
    return x * sine + z * cosine + middle[0], x * cosine - z * sine + middle[1]


def _weight(
    at: tuple[Tensor, Tensor], there: tuple[Tensor, Tensor], shape: tuple[int, int], kernel: Kernel, *, slope: bool
) -> Tensor:
    """Return the interpolation weights of the neighbours ``there`` at the points ``at``, or their derivative in θ."""
    z, x = (a - i for a, i in zip(at, there, strict=True))
    value_z, value_x = kernel.value(z.abs()), kernel.value(x.abs())
    if not slope:
        return value_z * value_x
    slope_z, slope_x = (torch.where(d < 0, -1, 1) * kernel.slope(d.abs()) for d in (z, x))
    sample_z, sample_x = (a - (n - 1) / 2 for a, n in zip(at, shape, strict=True))
    return slope_z * sample_x * value_x - value_z * slope_x * sample_z


def _inside(place: tuple[Tensor, Tensor], shape: tuple[int, int]) -> Tensor:
    return (place[0] >= 0) & (place[0] < shape[0]) & (place[1] >= 0) & (place[1] < shape[1])
