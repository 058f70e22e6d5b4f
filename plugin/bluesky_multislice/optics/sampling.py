"""How finely a propagation has to be sampled for an accuracy, and checks of what a caller hands to it.

Errors are those of the scattered wave, ‖u − u_exact‖/‖u_exact − ū_exact‖, measured on random objects
(docs/propagation.md).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bluesky_multislice.errors import ScanError

Pixel = float | tuple[float, float]
Thickness = float | Sequence[float] | Tensor
Windows = Sequence[tuple[int, int]]

_ERROR_A_DEPTH_OF_FIELD = 0.1
"""Error of slices one depth of field thick: features no finer than three pixels, phase of half a radian (rms)."""

_WALK, _RIM = 0.27, 0.008
"""Halo in pixels over λL/Δx²: how far most of the light walks, and over the accuracy, what a rim diffracts beyond."""


def thickest_slice_m(accuracy: float, *, depth_of_field_m: float) -> float:
    """Return how thick slices may be for an accuracy.

    The error is that of an object with no features finer than three pixels, the planes of which know nothing of each
    other, whose phase varies by half a radian (rms). It grows with the phase, doubling at 1.5 rad, and is five times as
    large where edges are sharp to the pixel. It falls at least in proportion to the thickness, and at second order for
    slices thinner than the object's own detail along the beam.

    Args:
        accuracy: relative error of the scattered wave.
        depth_of_field_m: at the resolution of one pixel.
    """
    return accuracy / _ERROR_A_DEPTH_OF_FIELD * depth_of_field_m


def halo_pixels(accuracy: float, *, wavelength_m: float, distance_m: float, pixel_size_m: float) -> int:
    """Return the pixels around a field that keep what is outside from disturbing it over a distance.

    Light that a pixel scatters walks up to λL/2Δx² pixels sideways, and the rim of a field diffracts: a halo of
    (0.27 + 0.008/accuracy)·λL/Δx² pixels serves objects of features of three pixels with sharp edges, weak and strong.
    The bound 4√(λL)/Δx of the literature keeps their error below 0.02 up to eight depths of field; beyond, angles are
    cut off that they scatter into.

    Args:
        accuracy: relative error of the scattered wave.
        wavelength_m: wavelength.
        distance_m: distance L that the wave goes.
        pixel_size_m: lateral pitch.
    """
    fresnel = wavelength_m * distance_m / pixel_size_m**2
    return math.ceil((_WALK + _RIM / accuracy) * fresnel)


def pixel_pair(pixel_size_m: Pixel) -> tuple[float, float]:
    """Return the pitch as (y, x)."""
    if isinstance(pixel_size_m, int | float):
        return float(pixel_size_m), float(pixel_size_m)
    return float(pixel_size_m[0]), float(pixel_size_m[1])


def thickness_of_slices(slice_thickness_m: Thickness, slices: int) -> Tensor:
    """Return one thickness a slice (z,), float64.

    Args:
        slice_thickness_m: one number for all, or one a slice.
        slices: number of slices.

    Raises:
        ScanError: their number is another one, or not all are positive.
    """
    thickness = torch.as_tensor(slice_thickness_m, dtype=torch.float64)
    if thickness.ndim == 0:
        thickness = thickness.expand(slices)
    # What is refined on an accelerator is kept positive by its bounds; to look at it here would hold the host.
    positive = thickness.device.type != "cpu" or bool((thickness > 0).all())
    if thickness.shape != (slices,) or not positive:
        raise ScanError(
            "Every slice has one thickness, larger than zero.",
            got=f"{thickness.numel()} thicknesses from {float(thickness.min()):g} m for {slices} slices.",
            remedy="give one number for all slices, or one a slice.",
        )
    return thickness


def check_wave_and_object(wave: Tensor, delta: Tensor, beta: Tensor, windows: Windows | None = None) -> None:
    """Refuse shapes and types that do not belong together.

    Raises:
        ScanError: wave is not complex (view, y, x), or δ and β are not (z, y, x) or (z, view, y, x) on its grid, or a
            window does not lie in the planes.
    """
    fits = wave.is_complex() and wave.ndim == 3 and delta.shape == beta.shape
    if fits and windows is None:
        fits = (
            delta.ndim in (3, 4)
            and delta.shape[-2:] == wave.shape[-2:]
            and (delta.ndim == 3 or delta.shape[1] in (1, wave.shape[0]))
        )
    if not fits:
        raise ScanError(
            "A propagation needs a complex wave (view, y, x) with δ and β (z, y, x) or (z, view, y, x) on its grid.",
            got=f"wave {wave.dtype} {tuple(wave.shape)}, δ {tuple(delta.shape)}, β {tuple(beta.shape)}.",
            remedy="reshape them; δ and β come z first.",
        )
    if windows is None:
        return
    last = tuple(plane - window for plane, window in zip(delta.shape[-2:], wave.shape[-2:], strict=True))
    inside = all(0 <= y <= last[0] and 0 <= x <= last[1] for y, x in windows)
    if delta.ndim != 3 or len(windows) != len(wave) or not inside:
        raise ScanError(
            "Every view needs a window that lies in the planes (z, y, x) of the object.",
            got=f"{len(windows)} windows for a wave {tuple(wave.shape)} in planes {tuple(delta.shape)}.",
            remedy="pad the planes with vacuum, or move the windows.",
        )
