"""Transmission of a slice of the object."""

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import wavenumber


def transmission(delta: Tensor, beta: Tensor, *, wavelength_m: float, thickness_m: float) -> Tensor:
    """Return exp(−ikΔz·δ)·exp(−kΔz·β).

    Args:
        delta: decrement of the refractive index, any shape.
        beta: absorption index, the same shape.
        wavelength_m: wavelength.
        thickness_m: thickness Δz of the slice.
    """
    strength = wavenumber(wavelength_m) * thickness_m
    modulus, phase = torch.exp(-strength * beta), -strength * delta
    return torch.complex(modulus * torch.cos(phase), modulus * torch.sin(phase))
