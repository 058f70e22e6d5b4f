"""Transmission of a slice of the object."""

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.sampling import check_wave_and_object


def transmission(delta: Tensor, beta: Tensor, *, wavelength_m: float, thickness_m: float) -> Tensor:
    """Return exp(−ikΔz·δ)·exp(−kΔz·β).

    Args:
        delta: decrement of the refractive index, any shape.
        beta: absorption index, the same shape.
        wavelength_m: wavelength.
        thickness_m: thickness Δz of the slice.
    """
    strength = wavenumber(wavelength_m) * thickness_m
    return torch.polar(torch.exp(-strength * beta), -strength * delta)


def object_slices(wave: Tensor, delta: Tensor, beta: Tensor, *, wavelength_m: float, thickness_m: float) -> Tensor:
    """Return the transmissions (z, view, y, x) of an object that fits a wave; one view where all share the object.

    Args:
        wave: complex (view, y, x).
        delta: δ (z, y, x) or (z, view, y, x).
        beta: β, the same shape as δ.
        wavelength_m: wavelength.
        thickness_m: thickness of a slice.

    Raises:
        ScanError: shapes contradict each other.
    """
    check_wave_and_object(wave, delta, beta)
    slices = transmission(delta, beta, wavelength_m=wavelength_m, thickness_m=thickness_m)
    return slices if slices.ndim == 4 else slices[:, None]
