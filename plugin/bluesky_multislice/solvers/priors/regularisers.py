"""Regularisers and bounds of the object.

Volumes are (part, z, y, x), with parts δ and β, in radians of phase through the whole volume. Every term is a mean
over voxels. Ranks that store the same rows share the planes, so each voxel is evaluated once. A rank with a slab of
rows also reads the neighbouring row on either side.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from bluesky_multislice.parallel import Slab

_IN_CACHE, _ON_ACCELERATOR = 2**17, 2**22
"""Voxels whose regularisers are differentiated at once; on a CPU, few enough for its cache."""

_PARTS = 2
"""δ and β, even if β is not fitted, so that a weight has the same meaning in both cases."""


@dataclass(frozen=True)
class Priors:
    """Weights of the regularisers relative to the data fidelity, and bounds.

    Attributes:
        total_variation: weight of total variation.
        total_variation_z: factor on differences along z in total variation.
        l1: weight of the mean magnitude.
        vacuum: weight of the mean magnitude in multiples of the noise in vacuum (``vacuum_noise_weight``).
        smoothness_z: weight of the mean squared difference between neighbouring planes along z.
        beta_over_delta_min: lower bound on β/δ of a voxel; None: no bound.
        beta_over_delta_max: upper bound on β/δ of a voxel; None: no bound.
        first_smoothing: factor on the weight of total variation in the first epoch. It decreases to 1 with the step
            length, so that edges form before details (continuation: Hale, Yin & Zhang, SIAM J. Optim. 19, 1107 (2008)).
        floor: difference below which total variation is quadratic, in steps of δ.
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
        """Whether any regulariser has a weight."""
        return max(self.total_variation, self.l1, self.vacuum, self.smoothness_z) > 0

    def at(self, relative_step: float) -> "Priors":
        """Return the priors of an epoch with this step length relative to the first epoch."""
        factor = 1 + (self.first_smoothing - 1) * relative_step
        return replace(self, total_variation=factor * self.total_variation)


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of a volume; see ``apply_bounds``.

    Attributes:
        positivity: constrain δ and β to values ≥ 0.
        support: True where matter is allowed, broadcasts to (z, y, x); None: everywhere.
        least: lower bound on β/δ of a voxel; None: no bound.
        most: upper bound on β/δ of a voxel; None: no bound.
    """

    positivity: bool
    support: Tensor | None
    least: float | None
    most: float | None


class Weights(NamedTuple):
    """Regulariser weights per voxel.

    Attributes:
        total_variation: weight of the gradient's length.
        along_z: factor on the squared difference along z in this length.
        floor: constant added to the squared length.
        smoothness_z: weight of half the squared difference along z.
        magnitude: weight of |voxel|.
    """

    total_variation: float
    along_z: float
    floor: float
    smoothness_z: float
    magnitude: float


NO_WEIGHTS = Weights(total_variation=0.0, along_z=1.0, floor=1.0, smoothness_z=0.0, magnitude=0.0)
"""Weights without any effect."""


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
    """Add the gradient of ``penalty`` to a gradient, a few planes at a time, without an array as large as the volume.

    Args:
        volume: (part, z, y, x), one part if β is not fitted; the stored rows.
        gradient: same shape, changed in place.
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``vacuum_noise_weight``.
        slab: the stored rows; None: all rows.
        weight: factor on the penalty.
        share: (index, number of shares): share of the planes to add. The sum over all shares is the full gradient.
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
            # A block includes the plane after its last one, and the last row may have its neighbour in the next slab.
            last = min(first + at_once, end)
            here = slice(first, last + 1)
            terms.add(volume[part, here], uphill[here], planes=last - first, rows=rows - behind.shape[-2])
        here = slice(start, end + 1)
        for first_row, second_row, edge in ((before, volume[..., :1, :], 0), (volume[..., -1:, :], behind, -1)):
            pair = torch.cat([first_row[part, here], second_row[part, here]], dim=-2)
            if pair.shape[-2] > 1:
                at_edge = torch.zeros_like(pair)
                terms.add(pair, at_edge, planes=end - start, rows=1)
                uphill[here, edge] += at_edge[:, -1 - edge]


@dataclass(frozen=True)
class _Terms:
    """Gradient of the penalty on a block of voxels; ``weight`` is that of one voxel."""

    priors: Priors
    floor: float
    noise: float
    weight: Tensor | float

    def add(self, block: Tensor, gradient: Tensor, *, planes: int, rows: int) -> None:
        """Add the gradient of the first planes and rows; the block may contain one neighbour after them.

        Args:
            block: (z, y, x).
            gradient: same shape, changed in place.
            planes: number of planes to evaluate.
            rows: number of rows to evaluate.
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
        """Same as ``add`` for contiguous tensors, whose rows may be along x or y."""
        # Imported here because importing numba takes a second.
        from bluesky_multislice.solvers.priors.fused_regularisers import add_gradient

        weights = voxel_weights(self.priors, self.floor, self.noise, float(self.weight))
        add_gradient(block.numpy(), gradient.numpy(), counted, weights)


def voxel_weights(priors: Priors, floor: float, noise: float, weight: float) -> Weights:
    """Return the weights of a voxel whose share of the penalty is ``weight``; see ``penalty`` for the arguments."""
    return Weights(
        total_variation=weight * priors.total_variation,
        along_z=priors.total_variation_z**2,
        # Any positive number if total variation has no weight.
        floor=floor**2 if priors.total_variation > 0 else 1.0,
        smoothness_z=weight * 2 * priors.smoothness_z,
        magnitude=weight * (priors.l1 + priors.vacuum * noise),
    )


def slab_weights(volume: Tensor, priors: Priors, floor: float, noise: float, slab: Slab) -> Weights:
    """Return the weights of each voxel (part, z, y, x) of the stored rows in the penalty of the whole volume."""
    _, planes, _, width = volume.shape
    return voxel_weights(priors, floor, noise, 1 / (_PARTS * planes * slab.height * width))


def _forward_difference(volume: Tensor, dim: int) -> Tensor:
    """Return the difference to the next voxel along an axis; 0 for the last voxel."""
    difference, steps = torch.zeros_like(volume), volume.shape[dim] - 1
    difference.narrow(dim, 0, steps).add_(volume.narrow(dim, 1, steps)).sub_(volume.narrow(dim, 0, steps))
    return difference


def penalty(volume: Tensor, priors: Priors, floor: float, noise: float) -> Tensor:
    """Return the weighted sum of the regularisers, a scalar in units of the misfit per pixel.

    Args:
        volume: (..., z, y, x).
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``vacuum_noise_weight``.
    """
    total = (priors.l1 + priors.vacuum * noise) * magnitude(volume) + priors.smoothness_z * roughness_z(volume)
    if priors.total_variation > 0:
        total = total + priors.total_variation * total_variation(volume, floor, along_z=priors.total_variation_z)
    return total


def total_variation(volume: Tensor, floor: float, *, along_z: float = 1.0) -> Tensor:
    """Return the mean length of the gradient of (..., z, y, x), in units of the volume per voxel.

    Args:
        volume: any leading shape.
        floor: length below which it is quadratic, so that it is differentiable.
        along_z: factor on differences along z; above 1 it smooths more along the beam, below 1 less.
    """
    steps = [_forward_difference(volume, axis) for axis in (-3, -2, -1)]
    steps[0] = along_z * steps[0]
    return torch.sqrt(sum((step**2 for step in steps), torch.full_like(steps[0], floor**2))).mean() - floor


def magnitude(volume: Tensor) -> Tensor:
    """Return the mean of |volume|, the L1 norm per voxel, which favours vacuum; any shape."""
    return volume.abs().mean()


def vacuum_noise_weight(misfit: float, *, lateral_pixels: int, measured_pixels: int) -> float:
    """Return the weight of ``magnitude`` that balances the frames' noise (one σ) in a voxel of vacuum.

    Frames hardly depend on a uniform phase of the whole field. With positivity, noise accumulates in such a phase.
    Noise of variance s on the amplitudes of n pixels gives the mean misfit a gradient of √(2s/(m·n))/nz per voxel, for
    nz planes of m pixels. The mean magnitude of two parts has the gradient 1/(2·nz·m). The misfit of the fit so far
    replaces s, as in the square-root lasso (Belloni, Chernozhukov & Wang, Biometrika 98, 791 (2011)), so that no
    property of the detector is needed.

    Args:
        misfit: mean misfit per pixel, relative to the mean intensity.
        lateral_pixels: pixels of a plane of the volume.
        measured_pixels: good pixels of all fitted frames.
    """
    return math.sqrt(8 * misfit * lateral_pixels / measured_pixels)


def roughness_z(volume: Tensor) -> Tensor:
    """Return the sum of squared differences between neighbouring planes of (..., z, y, x), per voxel.

    It couples the slices of a sample measured at one angle, which the frames hardly distinguish at low frequencies.
    """
    return torch.diff(volume, dim=-3).square().sum() / volume.numel()


@torch.no_grad()
def apply_bounds(volume: Tensor, priors: Priors, *, positivity: bool, support: Tensor | None) -> None:
    """Apply the bounds to a volume, in place.

    Args:
        volume: (part, z, y, x) δ and, if fitted, β.
        priors: bounds on β/δ, applied to voxels of positive δ; in other voxels only the sign of β is bounded.
        positivity: constrain δ and β to values ≥ 0.
        support: True where matter is allowed, broadcasts to (z, y, x); None: everywhere.
    """
    least, most = priors.beta_over_delta_min, priors.beta_over_delta_max
    if len(volume) == _PARTS and (least, most) != (None, None):
        # Before clipping negative values, because noise would otherwise raise voxels that are moved in both directions.
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
    """Project voxels onto the nearest δ ≥ 0 with β = ratio·δ, in place, so that β still contributes to δ."""
    nearest = ((delta + ratio * beta) / (1 + ratio**2)).clamp(min=0)
    delta.copy_(torch.where(where, nearest, delta))
    beta.copy_(torch.where(where, ratio * nearest, beta))
