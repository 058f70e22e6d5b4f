"""Signs, axes and units that all other modules follow.

=============  =======================================================================================================
frame          right-handed: z along the beam, y up and the rotation axis, x = y × z
arrays         volumes (z, y, x), planes (y, x), frames (view, y, x); index grows with the coordinate
origin         pixel i of n sits at (i − (n−1)/2)·pitch; the rotation axis goes through the middle of the volume
wave           exp(+ikz), k = 2π/λ, refractive index n = 1 − δ + iβ
transmission   exp(−ikΔz·δ)·exp(−kΔz·β)
propagation    F⁻¹[H·F[ψ]], H = exp(ikΔz(√(1−λ²f²) − 1)) (angular spectrum) or exp(−iπλΔz·f²) (Fresnel)
z = 0          the plane of the rotation axis; a probe is the wave in that plane without a sample; a volume of
               thickness L spans z = −L/2 (entrance) to z = +L/2 (exit)
rotation       sample rotated by +θ about +y, from z towards x: the lab point (x, z) sees the sample point
               (x·cosθ − z·sinθ, x·sinθ + z·cosθ)
far field      |FFT_ortho(exit wave)|², zero frequency at index n//2
near field     |exit wave propagated from z = +L/2 to the detector|²; a cone beam is treated as a parallel beam with the
               distance and pixel of the Fresnel scaling theorem; the probe does not contain its spherical phase
=============  =======================================================================================================
"""

import math

import torch
from torch import Tensor


def wavenumber(wavelength_m: float) -> float:
    """Return k = 2π/λ in rad/m."""
    return 2 * math.pi / wavelength_m


def frequencies(n: int, pitch_m: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the (n,) float64 spatial frequencies of a sampled line in FFT order, 1/m."""
    return torch.fft.fftfreq(n, pitch_m, dtype=torch.float64, device=device)


def coordinates(n: int, pitch_m: float, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the (n,) float64 positions (i − (n−1)/2)·pitch in metres."""
    return (torch.arange(n, dtype=torch.float64, device=device) - (n - 1) / 2) * pitch_m


def centred(n: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the (n,) float64 positions i − (n−1)/2 in pixels."""
    return torch.arange(n, dtype=torch.float64, device=device) - (n - 1) / 2


def squared_frequency(
    shape: tuple[int, int], pixel_size_m: tuple[float, float], *, device: torch.device | str = "cpu"
) -> Tensor:
    """Return f² (y, x) float64 in FFT order, 1/m²."""
    fy, fx = (frequencies(n, pitch, device=device) for n, pitch in zip(shape, pixel_size_m, strict=True))
    return fy[:, None] ** 2 + fx[None, :] ** 2
