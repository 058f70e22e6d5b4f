"""Projected phase of a thin sample from its holograms, by linear retrievals that take β for a fixed part of δ.

Shapes: holograms (..., distance, y, x) over the intensity of the beam; phase (..., y, x), that is k·∫δ dz in radians.
With χ = πλz·f² and γ = β/δ, the hologram of a weak sample of phase p has the spectrum δ(f) − 2(sin χ + γ·cos χ)·p(f).
Around the frames there is no sample.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import squared_frequency

_DARK = 1e-3
"""Least intensity, relative to the beam's, whose logarithm is taken."""

_FLOOR = 0.01
"""Added to the squared transfer of all distances, against what none shows.

Error of δ of two thick phantoms, one distance: 0.25 and 0.36 with 0.01, 0.55 and 0.48 with 0.1.
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

    It holds for strong absorption, and for details larger than √(λz); it takes the phase of finer ones for weaker.

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

    c = sin χ + γ·cos χ. ln I stands for I − 1: they are the same for a weak sample, and ln I follows strong absorption.

    Args:
        holograms: (..., distance, y, x).
        distances_m: (distance,) effective distances.
        wavelength_m: wavelength.
        pixel_m: effective pitch (y, x).
        beta_over_delta: γ; 0 is a sample of phase alone.

    Sources: Cloetens et al., Appl. Phys. Lett. 75, 2912 (1999); with one β/δ Turner et al., Opt. Express 12, 2960
    (2004).
    """
    rate = torch.pi * wavelength_m * _squared_frequency(holograms, pixel_m)
    seen = torch.zeros((), dtype=torch.complex64)
    power = torch.full_like(rate, _FLOOR)
    for number, distance_m in enumerate(distances_m):
        transfer = torch.sin(rate * distance_m) + beta_over_delta * torch.cos(rate * distance_m)
        seen = seen + transfer * _spectrum(torch.log(holograms[..., number, :, :].clamp(min=_DARK)))
        power = power + transfer**2
    ny, nx = holograms.shape[-2:]
    return torch.fft.irfft2(-0.5 * seen / power)[..., :ny, :nx]


def _spectrum(frames: Tensor) -> Tensor:
    """Return the half spectrum (..., 2y, x + 1) of frames (..., y, x) in a field of zeros twice as wide."""
    ny, nx = frames.shape[-2:]
    return torch.fft.rfft2(frames, s=(2 * ny, 2 * nx))


def _squared_frequency(frames: Tensor, pixel_m: tuple[float, float]) -> Tensor:
    """Return f² (2y, x + 1) of that half spectrum."""
    ny, nx = frames.shape[-2:]
    return squared_frequency((2 * ny, 2 * nx), pixel_m)[:, : nx + 1].to(frames)
