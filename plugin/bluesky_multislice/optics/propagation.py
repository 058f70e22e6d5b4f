"""Free propagation between parallel planes by one FFT pair."""

import functools
import math
from typing import Literal

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import squared_frequency, wavenumber

Kernel = Literal["angular_spectrum", "fresnel"]


def propagator(
    shape: tuple[int, int],
    *,
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: float,
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return the transfer function H (y, x), complex128, in FFT order.

    Args:
        shape: pixels (y, x).
        pixel_size_m: pitch (y, x).
        wavelength_m: wavelength.
        distance_m: from plane to plane, negative to go back. Evanescent waves decay either way.
        kernel: angular spectrum (exact for the scalar Helmholtz equation) or its paraxial limit.

    Source: Goodman, Introduction to Fourier Optics, ch. 3 and 4.
    """
    f2 = squared_frequency(shape, pixel_size_m)
    if kernel == "fresnel":
        phase = -math.pi * wavelength_m * distance_m * f2
        return torch.polar(torch.ones_like(phase), phase)
    cosine_squared = 1 - wavelength_m**2 * f2
    k = wavenumber(wavelength_m)
    phase = k * distance_m * (cosine_squared.clamp(min=0).sqrt() - 1)
    decay = -k * abs(distance_m) * (-cosine_squared).clamp(min=0).sqrt()
    return torch.polar(decay.exp(), phase)


@functools.lru_cache(maxsize=64)
def cached_propagator(
    shape: tuple[int, int],
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: float,
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return ``propagator`` in the wave's type, on its device; repeated calls share one tensor."""
    transfer = propagator(
        shape, pixel_size_m=pixel_size_m, wavelength_m=wavelength_m, distance_m=distance_m, kernel=kernel
    )
    return transfer.to(device=device, dtype=dtype)


def apply_transfer(wave: Tensor, transfer: Tensor) -> Tensor:
    """Return F⁻¹[H·F[ψ]] of waves (..., y, x) for a transfer function that broadcasts to them."""
    return torch.fft.ifft2(torch.fft.fft2(wave) * transfer)


def propagate(
    wave: Tensor,
    *,
    distance_m: float,
    wavelength_m: float,
    pixel_size_m: tuple[float, float],
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return waves (..., y, x) after free propagation over ``distance_m``; the field is periodic.

    Args:
        wave: complex (..., y, x).
        distance_m: distance, negative to go back.
        wavelength_m: wavelength.
        pixel_size_m: pitch (y, x).
        kernel: angular spectrum or Fresnel.
    """
    shape = (wave.shape[-2], wave.shape[-1])
    transfer = cached_propagator(shape, pixel_size_m, wavelength_m, distance_m, kernel, wave.dtype, wave.device)
    return apply_transfer(wave, transfer)
