"""What is asked of a volume besides fitting the frames: one sum of weighted terms, and the bounds it is kept within.

Volumes are (part, z, y, x), parts δ and β, in radians of phase through the whole volume. Every term is a mean over
voxels that belong to exactly one place each, so it is evaluated once per voxel: ranks that share the views all take its
gradient after the frames' has been summed. A rank that holds a slab of rows takes the row on either side of it, and
weighs its mean with its rows.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bluesky_multislice.parallel import Slab

_BLOCK_VOXELS = 2**20
"""Voxels whose regularisers are differentiated together: few next to a volume, many next to one operation."""

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
    """

    total_variation: float = 0.0
    total_variation_z: float = 1.0
    l1: float = 0.0
    vacuum: float = 0.0
    smoothness_z: float = 0.0
    beta_over_delta_min: float | None = None
    beta_over_delta_max: float | None = None

    @property
    def weighted(self) -> bool:
        """Whether any term has a weight."""
        return max(self.total_variation, self.l1, self.vacuum, self.smoothness_z) > 0


@torch.no_grad()
def add_gradient_of_penalty(
    volume: Tensor, gradient: Tensor, priors: Priors, floor: float, noise: float, slab: Slab | None = None
) -> None:
    """Add the gradient of ``penalty`` to a gradient, a few planes after the other: no volume is kept on the way.

    Args:
        volume: (part, z, y, x), one part where β is not fitted; the rows held.
        gradient: of the same shape, changed in place.
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``noise_of_vacuum``.
        slab: which rows are held; None: all.
    """
    if not priors.weighted:
        return
    _, planes, rows, width = volume.shape
    height, before, behind = rows, volume[..., :0, :], volume[..., :0, :]
    if slab is not None and not slab.whole:
        height = round(slab.total(rows))
        before, behind = slab.rows_around(volume.detach())
    # Differences to the first row held belong to the row before it.
    extra = before.shape[-2]
    at_once = max(1, _BLOCK_VOXELS // (rows * width))
    for number, uphill in enumerate(gradient):
        for first in range(0, planes, at_once):
            own = min(at_once, planes - first)
            # The plane behind the block is a neighbour of its last one.
            here = slice(first, first + own + 1)
            block = torch.cat([part[number, here] for part in (before, volume.detach(), behind)], dim=-2)
            block.requires_grad_()
            with torch.enable_grad():
                value = penalty(block, priors, floor, noise, planes=own, rows=extra + rows)
            found = torch.autograd.grad(value, block)[0][..., extra : extra + rows, :]
            uphill[here].add_(found, alpha=own * (extra + rows) / (planes * height * _PARTS))


def penalty(
    volume: Tensor, priors: Priors, floor: float, noise: float, *, planes: int | None = None, rows: int | None = None
) -> Tensor:
    """Return the weighted sum of the regularisers, a scalar in the units of the fit's misfit a pixel.

    Args:
        volume: (..., z, y, x).
        priors: the weights.
        floor: see ``total_variation``.
        noise: from ``noise_of_vacuum``.
        planes: how many of the first planes count; one behind them is but a neighbour. None counts all.
        rows: the same of rows.
    """
    planes = volume.shape[-3] if planes is None else planes
    rows = volume.shape[-2] if rows is None else rows
    total = volume.new_zeros(())
    if priors.total_variation > 0:
        variation = total_variation(volume, floor, along_z=priors.total_variation_z, planes=planes, rows=rows)
        total = total + priors.total_variation * variation
    counted = volume.narrow(-2, 0, rows)
    if max(priors.l1, priors.vacuum) > 0:
        total = total + (priors.l1 + priors.vacuum * noise) * magnitude(counted.narrow(-3, 0, planes))
    if priors.smoothness_z > 0:
        total = total + priors.smoothness_z * roughness_z(counted) * (volume.shape[-3] / planes)
    return total


def total_variation(
    volume: Tensor, floor: float, *, along_z: float = 1.0, planes: int | None = None, rows: int | None = None
) -> Tensor:
    """Return the mean length of the gradient of (..., z, y, x), in units of the volume a voxel.

    Args:
        volume: any leading shape.
        floor: length below which it turns quadratic, so that it can be differentiated.
        along_z: factor on the differences along z: above 1 it smooths more along the beam of a sample seen from one
            angle, below 1 less.
        planes: how many of the first planes count, see ``penalty``.
        rows: how many of the first rows count.
    """
    planes = volume.shape[-3] if planes is None else planes
    rows = volume.shape[-2] if rows is None else rows
    steps = [
        torch.diff(volume, dim=axis, append=volume.narrow(axis, -1, 1)).narrow(-3, 0, planes).narrow(-2, 0, rows)
        for axis in (-3, -2, -1)
    ]
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
    if positivity:
        volume.clamp_(min=0)
    if support is not None:
        volume.mul_(support)
    least, most = priors.beta_over_delta_min, priors.beta_over_delta_max
    if len(volume) < _PARTS or (least, most) == (None, None):
        return
    for delta, beta in zip(*volume, strict=True):
        matter = delta > 0
        if most is not None:
            _bring_to_ratio(delta, beta, most, matter & (beta > most * delta))
            beta.copy_(torch.where(matter, beta, beta.clamp(max=0)))
        if least is not None:
            _bring_to_ratio(delta, beta, least, matter & (beta < least * delta))
            beta.copy_(torch.where(matter, beta, beta.clamp(min=0)))


def _bring_to_ratio(delta: Tensor, beta: Tensor, ratio: float, where: Tensor) -> None:
    """Bring voxels to the nearest δ ≥ 0 and β = ratio·δ, in place: what β tells of δ is not lost."""
    nearest = ((delta + ratio * beta) / (1 + ratio**2)).clamp(min=0)
    delta.copy_(torch.where(where, nearest, delta))
    beta.copy_(torch.where(where, ratio * nearest, beta))
