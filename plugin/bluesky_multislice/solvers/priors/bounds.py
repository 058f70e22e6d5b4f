"""Bounds of the object: positivity, support, and the ratio β/δ of its materials."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Bounds:
    """Bounds of a volume.

    Attributes:
        positivity: constrain δ and β to values ≥ 0.
        support: True where matter is allowed, broadcasts to (z, y, x); None: everywhere.
        least: lower bound on β/δ of voxels of positive δ; in other voxels it bounds only the sign of β. None: no bound.
        most: upper bound on β/δ, likewise.
    """

    positivity: bool
    support: Tensor | None = None
    least: float | None = None
    most: float | None = None


@torch.no_grad()
def apply_bounds(volume: Tensor, bounds: Bounds) -> None:
    """Apply the bounds to a volume, in place.

    Args:
        volume: (part, z, y, x) δ and, if fitted, β.
        bounds: the bounds.
    """
    least, most = bounds.least, bounds.most
    if len(volume) == 2 and (least, most) != (None, None):
        # Before clipping negative values, because noise would otherwise raise voxels that are moved in both directions.
        for delta, beta in zip(*volume, strict=True):
            matter = torch.ones_like(delta, dtype=torch.bool) if bounds.positivity else delta > 0
            if most is not None:
                _bring_to_ratio(delta, beta, most, matter & (beta > most * delta))
                beta.copy_(torch.where(matter, beta, beta.clamp(max=0)))
            if least is not None:
                _bring_to_ratio(delta, beta, least, matter & (beta < least * delta))
                beta.copy_(torch.where(matter, beta, beta.clamp(min=0)))
    if bounds.positivity:
        volume.clamp_(min=0)
    if bounds.support is not None:
        volume.mul_(bounds.support)


def _bring_to_ratio(delta: Tensor, beta: Tensor, ratio: float, where: Tensor) -> None:
    """Project voxels onto the nearest δ ≥ 0 with β = ratio·δ, in place, so that β still contributes to δ."""
    nearest = ((delta + ratio * beta) / (1 + ratio**2)).clamp(min=0)
    delta.copy_(torch.where(where, nearest, delta))
    beta.copy_(torch.where(where, ratio * nearest, beta))
