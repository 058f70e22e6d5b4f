"""Neighbours and weights for interpolation in planes (z, x), and turns made of them on the volume's device.

A turned pixel is a weighted sum of its neighbours in the sample. The transpose asks the other way round: a pixel of
the sample sums the turned pixels that it is a neighbour of, which lie in a square around where the turn takes it. Both
are gathers with the same number of places per pixel, so that sums have one order and repeat bit by bit.
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
    """What a neighbour counts, by its distance in pixels along one axis.

    Attributes:
        reach: pixels on either side that count.
        value: of distances up to the reach.
        slope: the derivative.
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
"""Kernels of the interpolation along an axis."""


_AT_ONCE = 2**24
"""Most neighbours that are made together, of 16 bytes each and as much on the way to them."""

Angle = float | Tensor


class Turn(NamedTuple):
    """A turn in planes.

    Attributes:
        planes: planes of the volume; plane p is averaged in slice p·slices // planes.
        slices: slices of the turned volume.
        nx: pixels along x.
        angle_rad: θ; a tensor is on the volume's device.
        kernel: of the interpolation.
        slope: True for the derivative of the turn in θ.
    """

    planes: int
    slices: int
    nx: int
    angle_rad: Angle
    kernel: Kernel
    slope: bool = False


def turn(volume: Tensor, by: Turn) -> Tensor:
    """Return the volume (z, y, x) turned and averaged in slices (slice, y, x); its gradient is the exact transpose."""
    return _Gathered.apply(volume, by)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx, volume: Tensor, turn: Turn) -> Tensor:
        ctx.turn, ctx.y_last = turn, has_y_last(volume)
        most = -(-turn.planes // turn.slices) * (2 * turn.kernel.reach) ** 2
        return _sums(volume, turn, _neighbours_in_sample, (turn.slices, most), y_last=False)

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        number = ctx.turn.planes, len(_candidates(ctx.turn)) ** 2
        return _sums(gradients[0], ctx.turn, _neighbours_in_slices, number, y_last=ctx.y_last), None


def neighbours(
    plane: Tensor, shape: tuple[int, int], angle_rad: Angle, kernel: Kernel, *, slope: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, for the pixels of turned planes, one neighbour of each after the other.

    Args:
        plane: (…,) numbers of the turned planes along z.
        shape: pixels (z, x) of the sample's planes.
        angle_rad: θ.
        kernel: of the interpolation.
        slope: whether weights are the derivative in θ.

    Yields:
        its place z·x in the sample, its weight, a product of the kernel along z and x, and whether it exists and
        counts; (…, x) each.
    """
    lab = plane[..., None], torch.arange(shape[1], device=plane.device)
    at = _seen_at(lab, shape, angle_rad)
    offsets = range(1 - kernel.reach, 1 + kernel.reach)
    for offset in itertools.product(offsets, offsets):
        there = at[0].floor().long() + offset[0], at[1].floor().long() + offset[1]
        weight = _weight(at, there, shape, kernel, slope=slope)
        yield there[0] * shape[1] + there[1], weight, _inside(there, shape) & (weight != 0)


def _sums(
    planes: Tensor,
    turn: Turn,
    neighbours_of: Callable[[Turn, Tensor], tuple[Tensor, Tensor]],
    sizes: tuple[int, int],
    *,
    y_last: bool,
) -> Tensor:
    """Return (plane, y, x): weighted sums of rows z·nx + x of planes (z, y, x).

    Args:
        planes: what is summed.
        turn: which neighbours count.
        neighbours_of: returns places and weights of the pixels of some planes.
        sizes: how many planes there are to make, and the neighbours of each of their pixels.
        y_last: whether y of the result lies last in memory.
    """
    (number, most), (_, ny, nx) = sizes, planes.shape
    rows = planes.mT.reshape(-1, ny)
    image = planes.new_empty(number, nx, ny).mT if y_last else planes.new_empty(number, ny, nx)
    at_once = max(1, _AT_ONCE // (nx * most))
    for first in range(0, number, at_once):
        last = min(first + at_once, number)
        place, weight = neighbours_of(turn, torch.arange(first, last, device=planes.device))
        sums = functional.embedding_bag(
            place.flatten(0, 1), rows, mode="sum", per_sample_weights=weight.flatten(0, 1).to(rows.dtype)
        )
        image[first:last] = sums.unflatten(0, (last - first, nx)).mT
    return image


def _neighbours_in_sample(turn: Turn, number: Tensor) -> tuple[Tensor, Tensor]:
    """Return places z·x in the sample, and weights, (slice, x, neighbour), of the pixels of some slices."""
    first, end = (_first_plane(turn, each) for each in (number, number + 1))
    most = -(-turn.planes // turn.slices)
    # A slice with one plane fewer than others also lists the first plane of the next one, with weight 0.
    plane = first[:, None] + torch.arange(most, device=number.device)
    share = ((plane < end[:, None]).double() / (end - first)[:, None])[..., None]
    places, weights = [], []
    shape = (turn.planes, turn.nx)
    for place, weight, inside in neighbours(plane, shape, turn.angle_rad, turn.kernel, slope=turn.slope):
        counts = inside & (share > 0)
        places.append(torch.where(counts, place, 0))
        weights.append(torch.where(counts, weight * share, 0.0))
    return _of_each_pixel(places), _of_each_pixel(weights)


def _of_each_pixel(parts: list[Tensor]) -> Tensor:
    """Return (slice, x, neighbour) of parts (slice, plane, x) that hold one neighbour in each plane."""
    return torch.stack(parts, -1).transpose(1, 2).flatten(2)


def _neighbours_in_slices(turn: Turn, plane: Tensor) -> tuple[Tensor, Tensor]:
    """Return which turned pixels use each pixel of the sample: places slice·nx + x and weights, (z, x, neighbour)."""
    shape = (turn.planes, turn.nx)
    sample = plane[:, None, None, None], torch.arange(turn.nx, device=plane.device)[:, None, None]
    # Turned back, the kernel's square of half-width reach fits into one of half-width √2·reach.
    around = _seen_at(sample, shape, -turn.angle_rad)
    candidates = torch.arange(len(_candidates(turn)), device=plane.device)
    half = len(candidates) / 2
    lab = (
        (around[0] - half).ceil().long() + candidates[:, None],
        (around[1] - half).ceil().long() + candidates,
    )
    at = _seen_at(lab, shape, turn.angle_rad)
    weight = _weight(at, sample, shape, turn.kernel, slope=turn.slope)
    number = lab[0] * turn.slices // turn.planes
    share = 1 / (_first_plane(turn, number + 1) - _first_plane(turn, number)).double()
    near = [(-turn.kernel.reach <= a - i) & (a - i < turn.kernel.reach) for a, i in zip(at, sample, strict=True)]
    counts = _inside(lab, shape) & near[0] & near[1]
    place = torch.where(counts, number * turn.nx + lab[1], 0)
    return place.flatten(2), torch.where(counts, weight * share, 0.0).flatten(2)


def _candidates(turn: Turn) -> range:
    """Return the numbers of turned pixels along an axis that may use a pixel of the sample."""
    return range(math.ceil(2 * math.sqrt(2) * turn.kernel.reach))


def _first_plane(turn: Turn, number: Tensor) -> Tensor:
    """Return the first plane of slices by their numbers."""
    return (number * turn.planes + turn.slices - 1) // turn.slices


def _seen_at(lab: tuple[Tensor, Tensor], shape: tuple[int, int], angle_rad: Angle) -> tuple[Tensor, Tensor]:
    """Return where in the sample's planes, as indices (z, x), the lab's pixels (z, x) are; see ``optics.rotate``."""
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
    """Return what neighbours count for points that lie between them, or its derivative in θ."""
    z, x = (a - i for a, i in zip(at, there, strict=True))
    value_z, value_x = kernel.value(z.abs()), kernel.value(x.abs())
    if not slope:
        return value_z * value_x
    slope_z, slope_x = (torch.where(d < 0, -1, 1) * kernel.slope(d.abs()) for d in (z, x))
    sample_z, sample_x = (a - (n - 1) / 2 for a, n in zip(at, shape, strict=True))
    return slope_z * sample_x * value_x - value_z * slope_x * sample_z


def _inside(place: tuple[Tensor, Tensor], shape: tuple[int, int]) -> Tensor:
    return (place[0] >= 0) & (place[0] < shape[0]) & (place[1] >= 0) & (place[1] < shape[1])
