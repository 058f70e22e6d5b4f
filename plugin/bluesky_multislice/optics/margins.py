"""Absorbing margins, in which waves leave the field instead of wrapping around to its other side."""

import math

import torch
from torch import Tensor

from bluesky_multislice.errors import ScanError

_REMAINDER = 1e-3
"""Fraction of a beam's energy that may wrap around."""


def absorbing_margin(shape: tuple[int, int], width: int, *, steps: int) -> Tensor:
    """Return a mask (y, x), float64, that multiplies the wave at each of ``steps`` steps.

    The mask is 1 inside and falls smoothly towards the edge, with 6u⁵ − 15u⁴ + 10u³ in the exponent. A beam that wraps
    around spends at least the fraction w/(n − w) of its steps in margins (w pixels wide, field of n pixels), whatever
    its angle. One strength therefore reduces every such beam to less than 1e-3 of its energy. A beam that crosses more
    than ``width`` pixels in one step skips the margin; use thinner slices or a wider margin then. The margin also
    absorbs light of interest: keep that light inside.

    Args:
        shape: pixels (y, x), margins included; an axis of one pixel has no margin.
        width: pixels of the margin on each side.
        steps: number of times that the mask is applied.

    Raises:
        ScanError: the margin is empty or covers the field, or there is no step.
    """
    if not (width >= 1 and all(n == 1 or n > 2 * width for n in shape)):
        raise ScanError(
            "An absorbing margin must be at least one pixel wide and leave part of the field free.",
            got=f"{width} pixels on each side of a field of {shape} pixels.",
            remedy="pad the field, or use a narrower margin.",
        )
    if steps < 1:
        raise ScanError(
            "An absorbing margin must act in at least one step.",
            got=f"{steps} steps.",
            remedy="use at least one slice.",
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
