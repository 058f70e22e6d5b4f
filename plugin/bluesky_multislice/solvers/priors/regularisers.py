"""What is asked of a volume besides fitting the frames: one sum of weighted terms, and the bounds it is kept within.

Volumes are (part, z, y, x), parts δ and β, in radians of phase through the whole volume. Every term is a mean over
voxels that belong to exactly one place each, so it is evaluated once per voxel: ranks that hold the same rows share the
planes. A rank that holds a slab of rows takes the row on either side of it, and weighs its mean with its rows.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bluesky_multislice.parallel import Slab

_IN_CACHE, _ON_ACCELERATOR = 2**17, 2**22
"""Voxels whose regularisers are differentiated together: on a processor so few that all stays in its cache."""

_PARTS = 2
"""δ and β, also where β is not fitted: a weight means the same with and without it."""


@dataclass(frozen=True)
class Priors:
    """Weights of the regularisers relative to the fit, and bounds.

    Attributes:
        total_variation: weight of total variation.
        total_variation_z: factor on the differences along z inside total variation.
        l1: weight of the mean magnitude.
        vacuum: the same, in multiples of what the frames' noise makes of vacuum (``noise_of_vacuum``).
        smoothness_z: weight of the mean squared difference between neighbouring planes along z.
        beta_over_delta_min: least β/δ of a voxel; None leaves it free.
        beta_over_delta_max: greatest β/δ of a voxel; None leaves it free.
        first_smoothing: factor on the weight of total variation in the first epoch, which falls to 1 as steps shorten:
            edges settle before there is detail (continuation: Hale, Yin & Zhang, SIAM J. Optim. 19, 1107 (2008)).
        floor: length of a difference below which total variation turns quadratic, in steps of δ.
    """

    total_variation: float = 0.0
    total_variation_z: float = 1.0
    l1: float = 0.0
    vacuum: float = 0.0
    smoothness_z: float = 0.0
    beta_over_delta_min: float | None = None
    beta_over_delta_max: float | None = None
    first_smoothing: float = 1.0
    floor: float = 1.0

    @property
    def weighted(self) -> bool:
        """Whether any term has a weight."""
        return max(self.total_variation, self.l1, self.vacuum, self.smoothness_z) > 0

    def at(self, relative_step: float) -> "Priors":
        """Return the priors of an epoch whose steps are so long, relative to the first one's."""
        factor = 1 + (self.first_smoothing - 1) * relative_step
        return replace(self, total_variation=factor * self.total_variation)


@dataclass(frozen=True, eq=False)
class Bounds:
    """What a volume is kept within, see ``bound``.

    Attributes:
        positivity: keep δ and β from going negative.
        support: True where there may be matter, broadcasts to (z, y, x); None is everywhere.
        least: least β/δ of a voxel; None leaves it free.
        most: greatest β/δ of a voxel; None leaves it free.
    """

    positivity: bool
    support: Tensor | None
    least: float | None
    most: float | None


class Weights(NamedTuple):
    """What a voxel counts.

    Attributes:
        total_variation: weight of the length of its gradient.
        along_z: factor on the square of the difference along z in that length.
        floor: square that is added to it.
        smoothness_z: weight of half the squared difference along z.
        magnitude: weight of |voxel|.
    """

    total_variation: float
    along_z: float
    floor: float
    smoothness_z: float
    magnitude: float


NO_WEIGHTS = Weights(total_variation=0.0, along_z=1.0, floor=1.0, smoothness_z=0.0, magnitude=0.0)
"""What counts nothing."""


@torch.no_grad()
def add_gradient_of_penalty(
    volume: Tensor,
    gradient: Tensor,
    priors: Priors,
    floor: float,
    noise: float,
    slab: Slab | None = None,
    *,
    weight: Tensor | float = 1.0,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Add the gradient of ``penalty`` to a gradient, a few planes after the other: no volume is kept on the way.

    Args:
        volume: (part, z, y, x), one part where β is not fitted; the rows held.
        gradient: of the same shape, changed in place.
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``noise_of_vacuum``.
        slab: which rows are held; None: all.
        weight: factor on the penalty.
        share: (number, of how many): which share of the planes counts. What all shares add is the whole gradient.
    """
    if not priors.weighted:
        return
    _, planes, rows, width = volume.shape
    height, before, behind = rows, volume[..., :0, :], volume[..., :0, :]
    if slab is not None and not slab.whole:
        height = slab.height
        before, behind = slab.rows_around(volume)
    terms = _Terms(priors, floor, noise, weight / (_PARTS * planes * height * width))
    voxels = _IN_CACHE if volume.device.type == "cpu" else _ON_ACCELERATOR
    at_once = max(1, voxels // (rows * width))
    number, shares = share
    start, end = (planes * at // shares for at in (number, number + 1))
    for part, uphill in enumerate(gradient):
        for first in range(start, end, at_once):
            # The plane behind the block is a neighbour of its last one, and the last row has one in the next slab.
            last = min(first + at_once, end)
            here = slice(first, last + 1)
            terms.add(volume[part, here], uphill[here], planes=last - first, rows=rows - behind.shape[-2])
        here = slice(start, end + 1)
        for one, other, held in ((before, volume[..., :1, :], 0), (volume[..., -1:, :], behind, -1)):
            pair = torch.cat([one[part, here], other[part, here]], dim=-2)
            if pair.shape[-2] > 1:
                at_edge = torch.zeros_like(pair)
                terms.add(pair, at_edge, planes=end - start, rows=1)
                uphill[here, held] += at_edge[:, -1 - held]


@dataclass(frozen=True)
class _Terms:
    """The gradient of the penalty where few voxels are concerned; ``weight`` is that of one voxel."""

    priors: Priors
    floor: float
    noise: float
    weight: Tensor | float

    def add(self, block: Tensor, gradient: Tensor, *, planes: int, rows: int) -> None:
        """Add the gradient of the first planes and rows, which may have one neighbour behind them.

        Args:
            block: (z, y, x).
            gradient: of the same shape, changed in place.
            planes: how many planes count.
            rows: how many rows count.
        """
        if block.dtype == gradient.dtype == torch.float32 and block.device.type == "cpu":
            width = block.shape[2]
            for y_last, counted in ((False, (planes, rows, width)), (True, (planes, width, rows))):
                values, uphill = (part.mT if y_last else part for part in (block, gradient))
                if values.is_contiguous() and uphill.is_contiguous():
                    self._add_compiled(values, uphill, counted)
                    return
        priors, weight = self.priors, self.weight
        along_z, along_y, along_x = (_forward_difference(block, dim)[:planes, :rows] for dim in range(3))
        here = gradient[:planes, :rows]
        factor_z: Tensor | float = 2 * priors.smoothness_z * weight
        if priors.total_variation > 0:
            stretch = priors.total_variation_z**2
            length = along_x.square().addcmul_(along_y, along_y).addcmul_(along_z, along_z, value=stretch)
            factor = length.add_(self.floor**2).rsqrt_().mul_(priors.total_variation * weight)
            gradient[:planes, 1 : 1 + rows] += along_y.mul_(factor)[:, : block.shape[1] - 1]
            here[..., 1:] += along_x.mul_(factor)[..., :-1]
            here -= along_y.add_(along_x)
            factor_z = factor.mul_(stretch).add_(factor_z)
        gradient[1 : 1 + planes, :rows] += along_z.mul_(factor_z)[: len(block) - 1]
        here -= along_z
        sparse = priors.l1 + priors.vacuum * self.noise
        if sparse > 0:
            here += block[:planes, :rows].sign().mul_(sparse * weight)

    def _add_compiled(self, block: Tensor, gradient: Tensor, counted: tuple[int, int, int]) -> None:
        """Do what ``add`` does, of tensors without gaps, whose rows may be x as well as y."""
        # numba takes a second to import, which those who compute nothing need not wait for.
        from bluesky_multislice.solvers.priors.fused_regularisers import add_gradient

        weights = weights_of_a_voxel(self.priors, self.floor, self.noise, float(self.weight))
        add_gradient(block.numpy(), gradient.numpy(), counted, weights)


def weights_of_a_voxel(priors: Priors, floor: float, noise: float, weight: float) -> Weights:
    """Return what a voxel counts in a penalty of which it is so large a part; see ``penalty`` for the others."""
    return Weights(
        total_variation=weight * priors.total_variation,
        along_z=priors.total_variation_z**2,
        # Any number where no length has a weight.
        floor=floor**2 if priors.total_variation > 0 else 1.0,
        smoothness_z=weight * 2 * priors.smoothness_z,
        magnitude=weight * (priors.l1 + priors.vacuum * noise),
    )


def weights_of_slab(volume: Tensor, priors: Priors, floor: float, noise: float, slab: Slab) -> Weights:
    """Return what each voxel (part, z, y, x) of the rows held counts in the penalty of the whole volume."""
    _, planes, _, width = volume.shape
    return weights_of_a_voxel(priors, floor, noise, 1 / (_PARTS * planes * slab.height * width))


def _forward_difference(volume: Tensor, dim: int) -> Tensor:
    """Return the difference to the next voxel along an axis, 0 behind the last."""
    difference, steps = torch.zeros_like(volume), volume.shape[dim] - 1
    difference.narrow(dim, 0, steps).add_(volume.narrow(dim, 1, steps)).sub_(volume.narrow(dim, 0, steps))
    return difference


def penalty(volume: Tensor, priors: Priors, floor: float, noise: float) -> Tensor:
    """Return the weighted sum of the regularisers, a scalar in the units of the fit's misfit a pixel.

    Args:
        volume: (..., z, y, x).
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``noise_of_vacuum``.
    """
    total = (priors.l1 + priors.vacuum * noise) * magnitude(volume) + priors.smoothness_z * roughness_z(volume)
    if priors.total_variation > 0:
        total = total + priors.total_variation * total_variation(volume, floor, along_z=priors.total_variation_z)
    return total


def total_variation(volume: Tensor, floor: float, *, along_z: float = 1.0) -> Tensor:
    """Return the mean length of the gradient of (..., z, y, x), in units of the volume a voxel.

    Args:
        volume: any leading shape.
        floor: length below which it turns quadratic, so that it can be differentiated.
        along_z: factor on the differences along z: above 1 it smooths more along the beam of a sample seen from one
            angle, below 1 less.
    """
    steps = [_forward_difference(volume, axis) for axis in (-3, -2, -1)]
    steps[0] = along_z * steps[0]
    return torch.sqrt(sum((step**2 for step in steps), torch.full_like(steps[0], floor**2))).mean() - floor


def magnitude(volume: Tensor) -> Tensor:
    """Return the mean of |volume| (the L1 norm over the number of voxels), which favours vacuum; any shape."""
    return volume.abs().mean()


def noise_of_vacuum(misfit: float, *, lateral_pixels: int, measured_pixels: int) -> float:
    """Return the weight of ``magnitude`` that holds a voxel of vacuum against the frames' noise (one σ).

    Frames hardly depend on a haze, whose phase all of a pattern shares. Where positivity holds, noise adds to it, and
    nothing takes it back. Noise of variance s on the amplitudes of n pixels gives their mean misfit a gradient of
    √(2s/(m·n))/nz in a voxel of nz planes of m pixels; the mean magnitude of two parts has 1/(2·nz·m). The misfit
    of the fit so far stands for s, as in the square-root lasso (Belloni, Chernozhukov & Wang, Biometrika 98, 791
    (2011)): nothing need be known of the detector.

    Args:
        misfit: mean misfit of a pixel, relative to the mean intensity.
        lateral_pixels: pixels of a plane of the volume.
        measured_pixels: good pixels of all fitted frames.
    """
    return math.sqrt(8 * misfit * lateral_pixels / measured_pixels)


def roughness_z(volume: Tensor) -> Tensor:
    """Return the squared difference between neighbouring planes of (..., z, y, x), summed, over the number of voxels.

    It couples the slices of a sample seen from one angle, which the frames hardly tell apart at low frequencies.
    """
    return torch.diff(volume, dim=-3).square().sum() / volume.numel()


@torch.no_grad()
def bound(volume: Tensor, priors: Priors, *, positivity: bool, support: Tensor | None) -> None:
    """Bring a volume within its bounds, in place.

    Args:
        volume: (part, z, y, x) δ and, where it is fitted, β.
        priors: for the bounds on β/δ of voxels of positive δ; the others keep theirs, and lose a β beyond zero.
        positivity: keep δ and β from going negative.
        support: True where there may be matter, broadcasts to (z, y, x); None is everywhere.
    """
    least, most = priors.beta_over_delta_min, priors.beta_over_delta_max
    if len(volume) == _PARTS and (least, most) != (None, None):
        # Before what is negative is set to zero: noise would lift what is moved both ways.
        for delta, beta in zip(*volume, strict=True):
            matter = torch.ones_like(delta, dtype=torch.bool) if positivity else delta > 0
            if most is not None:
                _bring_to_ratio(delta, beta, most, matter & (beta > most * delta))
                beta.copy_(torch.where(matter, beta, beta.clamp(max=0)))
            if least is not None:
                _bring_to_ratio(delta, beta, least, matter & (beta < least * delta))
                beta.copy_(torch.where(matter, beta, beta.clamp(min=0)))
    if positivity:
        volume.clamp_(min=0)
    if support is not None:
        volume.mul_(support)


def _bring_to_ratio(delta: Tensor, beta: Tensor, ratio: float, where: Tensor) -> None:
    """Bring voxels to the nearest δ ≥ 0 and β = ratio·δ, in place: what β tells of δ is not lost."""
    nearest = ((delta + ratio * beta) / (1 + ratio**2)).clamp(min=0)
    delta.copy_(torch.where(where, nearest, delta))
    beta.copy_(torch.where(where, ratio * nearest, beta))
