"""Projected phase of a thin sample from holograms, by linear retrievals that assume a constant β/δ.

Shapes: holograms (..., distance, y, x) over the beam's intensity; phase (..., y, x), which is k·∫δ dz in radians.
With χ = πλz·f² and γ = β/δ, the hologram of a weak sample of phase p has the spectrum δ(f) − 2(sin χ + γ·cos χ)·p(f).
The sample is assumed to be inside the frame.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import squared_frequency

_DARK = 1e-3
"""Smallest intensity, relative to the beam's, in the logarithm."""

_FLOOR = 0.01
"""Regularisation: added to the squared transfer function of all distances, for frequencies without contrast.

Error of δ for two thick phantoms, one distance: 0.25 and 0.36 with 0.01, 0.55 and 0.48 with 0.1.
"""


def paganin_phase(
    hologram: Tensor,
    *,
    distance_m: float,
    wavelength_m: float,
    pixel_m: tuple[float, float],
    beta_over_delta: float,
) -> Tensor:
    """Return the projected phase (..., y, x) from one distance: −(1/2γ)·ln F⁻¹[F[I] / (1 + χ/γ)].

    Valid for strong absorption and details larger than √(λz); it underestimates the phase of finer details.

    Args:
        hologram: (..., 1, y, x).
        distance_m: effective distance.
        wavelength_m: wavelength.
        pixel_m: effective pitch (y, x).
        beta_over_delta: γ > 0.

    Source: Paganin et al., J. Microsc. 206, 33 (2002).
    """
    chi = torch.pi * wavelength_m * distance_m * _squared_frequency(hologram, pixel_m)
    scattered = torch.fft.irfft2(_spectrum(hologram[..., 0, :, :] - 1) / (1 + chi / beta_over_delta))
    ny, nx = hologram.shape[-2:]
    return -torch.log((1 + scattered[..., :ny, :nx]).clamp(min=_DARK)) / (2 * beta_over_delta)


def contrast_transfer_phase(
    holograms: Tensor,
    *,
    distances_m: Sequence[float],
    wavelength_m: float,
    pixel_m: tuple[float, float],
    beta_over_delta: float,
) -> Tensor:
    """Return the projected phase (..., y, x) that fits all distances: −½·F⁻¹[Σ c·F[ln I] / (Σ c² + floor)].

    c = sin χ + γ·cos χ. ln I replaces I − 1: both agree for a weak sample, and ln I is better for strong absorption.

    Args:
        holograms: (..., distance, y, x).
        distances_m: (distance,) effective distances.
        wavelength_m: wavelength.
        pixel_m: effective pitch (y, x).
        beta_over_delta: γ; 0 for a pure phase sample.

    Sources: Cloetens et al., Appl. Phys. Lett. 75, 2912 (1999); with one β/δ Turner et al., Opt. Express 12, 2960
    (2004).
    """
    rate = torch.pi * wavelength_m * _squared_frequency(holograms, pixel_m)
    numerator = torch.zeros((), dtype=torch.complex64)
    denominator = torch.full_like(rate, _FLOOR)
    for number, distance_m in enumerate(distances_m):
        transfer = torch.sin(rate * distance_m) + beta_over_delta * torch.cos(rate * distance_m)
        numerator = numerator + transfer * _spectrum(torch.log(holograms[..., number, :, :].clamp(min=_DARK)))
        denominator = denominator + transfer**2
    ny, nx = holograms.shape[-2:]
    return torch.fft.irfft2(-0.5 * numerator / denominator)[..., :ny, :nx]


def _spectrum(frames: Tensor) -> Tensor:
    """Return the half spectrum (..., 2y, x + 1) of frames (..., y, x) in a field of zeros twice as wide."""
    ny, nx = frames.shape[-2:]
    return torch.fft.rfft2(frames, s=(2 * ny, 2 * nx))


def _squared_frequency(frames: Tensor, pixel_m: tuple[float, float]) -> Tensor:
    """Return f² (2y, x + 1) of that half spectrum."""
    ny, nx = frames.shape[-2:]
    return squared_frequency((2 * ny, 2 * nx), pixel_m)[:, : nx + 1].to(frames)
