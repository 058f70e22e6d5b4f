"""Margins that light runs out of the field through, instead of coming around to its other side."""

import math

import torch
from torch import Tensor

from bluesky_multislice.errors import ScanError

_REMAINDER = 1e-3
"""Part of a beam's energy that may come around."""


def absorbing_margin(shape: tuple[int, int], width: int, *, steps: int) -> Tensor:
    """Return a mask (y, x), float64, to multiply the wave with at each of ``steps`` steps.

    It is 1 inside and falls smoothly, 6u⁵ − 15u⁴ + 10u³ in the exponent, to the rim. Whatever its angle, a beam that
    comes back inside has spent at least the part w/(n − w) of its steps in the two margins that it met (w wide, of n
    pixels), so one strength takes all of them down to less than 1e-3 of their energy. A beam that crosses more than
    ``width`` pixels in a step jumps over; then take thinner slices or a wider margin. What the light of interest loses
    in the margin is lost too: keep it inside.

    Args:
        shape: pixels (y, x), margins included; a line of one pixel has none.
        width: pixels of the margin on each side.
        steps: how often the mask is applied on the way.

    Raises:
        ScanError: no margin, no field left within, or no step.
    """
    if not (width >= 1 and steps >= 1 and all(n == 1 or n > 2 * width for n in shape)):
        raise ScanError(
            "Absorbing margins are at least a pixel wide, leave some of the field within and work over some steps.",
            got=f"{width} pixels on each side of a field of {shape}, {steps} steps.",
            remedy="pad the field, or take a narrower margin.",
        )
    y, x = (_line(n, width, steps) for n in shape)
    return y[:, None] * x


def _line(n: int, width: int, steps: int) -> Tensor:
    if n == 1:
        return torch.ones(1, dtype=torch.float64)
    index = torch.arange(n, dtype=torch.float64)
    depth = ((width - 0.5 - torch.minimum(index, n - 1 - index)) / width).clamp(min=0)
    profile = depth**3 * (10 - 15 * depth + 6 * depth**2)
    strength = -math.log(_REMAINDER) * (n - width) / (steps * profile.sum())
    return torch.exp(-strength * profile)
