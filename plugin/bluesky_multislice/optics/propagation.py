"""Free propagation between parallel planes by one FFT pair."""

import functools
import math

import torch
from torch import Tensor

from bluesky_multislice.choices import Kernel
from bluesky_multislice.optics.conventions import frequencies, squared_frequency, wavenumber

Distance = float | Tensor


def phase_rate(
    shape: tuple[int, int],
    *,
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    kernel: Kernel = "angular_spectrum",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return κ = ∂(ln H)/∂z for z > 0, (y, x) complex128 in FFT order, 1/m.

    The transfer function over a distance z is H = exp(|z|·Re κ + iz·Im κ). Plane waves gain phase. Evanescent waves
    (Re κ < 0, angular spectrum only) decay in both directions.

    Args:
        shape: pixels (y, x).
        pixel_size_m: pitch (y, x).
        wavelength_m: wavelength.
        kernel: angular spectrum (exact for the scalar Helmholtz equation) or its paraxial limit, Fresnel.
        device: device of the result.

    Source: Goodman, Introduction to Fourier Optics, ch. 3 and 4.
    """
    k = wavenumber(wavelength_m)
    sine_squared = wavelength_m**2 * squared_frequency(shape, pixel_size_m, device=device)
    if kernel == "fresnel":
        return torch.complex(torch.zeros_like(sine_squared), -k * sine_squared / 2)
    cosine, decay = (1 - sine_squared).clamp(min=0).sqrt(), (sine_squared - 1).clamp(min=0).sqrt()
    # cosine − 1 in a form without cancellation at small angles.
    return torch.complex(-k * decay, -k * sine_squared.clamp(max=1) / (1 + cosine))


def largest_decay_rate(
    shape: tuple[int, int],
    *,
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    kernel: Kernel = "angular_spectrum",
) -> float:
    """Return the largest −Re κ, 1/m: the decay rate of the evanescent wave of the highest frequency."""
    sine_squared = wavelength_m**2 * sum(
        float(frequencies(n, pitch).abs().max()) ** 2 for n, pitch in zip(shape, pixel_size_m, strict=True)
    )
    return 0.0 if kernel == "fresnel" else wavenumber(wavelength_m) * math.sqrt(max(sine_squared - 1, 0.0))


def propagator(
    shape: tuple[int, int],
    *,
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: Distance,
    kernel: Kernel = "angular_spectrum",
    band_limit: bool = False,
    device: torch.device | str | None = None,
) -> Tensor:
    """Return the transfer function H (y, x), complex128, in FFT order.

    Args:
        shape: pixels (y, x).
        pixel_size_m: pitch (y, x).
        wavelength_m: wavelength.
        distance_m: distance between the planes, negative for back-propagation; differentiable as a 0-d tensor.
        kernel: angular spectrum or Fresnel, see ``phase_rate``.
        band_limit: set H to zero outside of ``sampled_band``.
        device: device of the result; None takes the device of the distance.
    """
    if device is None:
        device = distance_m.device if isinstance(distance_m, Tensor) else "cpu"
    optics = {"pixel_size_m": pixel_size_m, "wavelength_m": wavelength_m, "kernel": kernel, "device": device}
    rate = phase_rate(shape, **optics)
    if isinstance(distance_m, Tensor):
        distance_m = distance_m.to(device, torch.float64)
    transfer = torch.polar((abs(distance_m) * rate.real).exp(), distance_m * rate.imag)
    if band_limit:
        distance = distance_m.detach() if isinstance(distance_m, Tensor) else distance_m
        transfer = transfer * sampled_band(shape, distance_m=distance, **optics)
    return transfer


def sampled_band(
    shape: tuple[int, int],
    *,
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: Distance,
    kernel: Kernel = "angular_spectrum",
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return a mask (y, x), bool in FFT order, of frequencies where the phase of H changes by less than π per sample.

    These frequencies belong to rays that move sideways by at most half of the field: |f| ≤ 1/(λ√((2Δf·z)² + 1)),
    paraxially |f| ≤ 1/(2λΔf·z), along y and x each. Higher frequencies would wrap around the periodic field.
    Evanescent waves have no phase to sample and are kept.

    Args:
        shape: pixels (y, x).
        pixel_size_m: pitch (y, x).
        wavelength_m: wavelength.
        distance_m: distance between the planes.
        kernel: angular spectrum or Fresnel.
        device: device of the result.

    Source: Matsushima & Shimobaba, Opt. Express 17, 19662 (2009), eq. 13.
    """
    sine_squared = wavelength_m**2 * squared_frequency(shape, pixel_size_m, device=device)
    evanescent = sine_squared > (1 if kernel == "angular_spectrum" else math.inf)
    within = []
    for n, pitch in zip(shape, pixel_size_m, strict=True):
        sine, slope = wavelength_m * frequencies(n, pitch, device=device), 2 * distance_m / (n * pitch)
        within.append(sine**2 * (slope**2 + (kernel == "angular_spectrum")) <= 1)
    return evanescent | (within[0][:, None] & within[1])


@functools.lru_cache(maxsize=64)
def cached_propagator(
    shape: tuple[int, int],
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: float,
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
    band_limit: bool = False,
) -> Tensor:
    """Return ``propagator`` with a given type and device; repeated calls return the same tensor."""
    transfer = propagator(
        shape,
        pixel_size_m=pixel_size_m,
        wavelength_m=wavelength_m,
        distance_m=distance_m,
        kernel=kernel,
        band_limit=band_limit,
        device=device,
    )
    return transfer.to(dtype)


def apply_transfer(wave: Tensor, transfer: Tensor) -> Tensor:
    """Return F⁻¹[H·F[ψ]] of waves (..., y, x); the transfer function H broadcasts to their shape."""
    return torch.fft.ifft2(torch.fft.fft2(wave) * transfer)


def propagate(
    wave: Tensor,
    *,
    distance_m: Distance,
    wavelength_m: float,
    pixel_size_m: tuple[float, float],
    kernel: Kernel = "angular_spectrum",
    band_limit: bool = False,
) -> Tensor:
    """Return waves (..., y, x) after free propagation over ``distance_m``; the field is periodic.

    Args:
        wave: complex (..., y, x).
        distance_m: distance, negative for back-propagation; differentiable as a 0-d tensor.
        wavelength_m: wavelength.
        pixel_size_m: pitch (y, x).
        kernel: angular spectrum or Fresnel.
        band_limit: remove frequencies that move sideways by more than half of the field, see ``sampled_band``.
    """
    shape = (wave.shape[-2], wave.shape[-1])
    optics = {"pixel_size_m": pixel_size_m, "wavelength_m": wavelength_m, "kernel": kernel, "band_limit": band_limit}
    if isinstance(distance_m, Tensor):
        transfer = propagator(shape, distance_m=distance_m, device=wave.device, **optics).to(wave.dtype)
    else:
        transfer = cached_propagator(shape, distance_m=distance_m, dtype=wave.dtype, device=wave.device, **optics)
    return apply_transfer(wave, transfer)
