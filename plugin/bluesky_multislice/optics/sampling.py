"""Sampling that a propagation needs for a given accuracy, and checks of its arguments.

Errors are relative errors of the scattered wave, ‖u − u_exact‖/‖u_exact − ū_exact‖, measured on random objects
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

_ERROR_PER_DEPTH_OF_FIELD = 0.1
"""Error with slices one depth of field thick, for features of at least three pixels and an rms phase of 0.5 rad."""

_SCATTERING_HALO, _EDGE_HALO = 0.27, 0.008
"""Halo in units of λL/Δx² pixels: for scattering by the object, and (over the accuracy) for diffraction at the edge."""


def thickest_slice_m(accuracy: float, *, depth_of_field_m: float) -> float:
    """Return the largest slice thickness for a given accuracy.

    The error was measured on an object whose features are at least three pixels wide, whose planes are uncorrelated
    and whose phase varies by 0.5 rad (rms). The error grows with the phase and doubles at 1.5 rad. It is five times
    larger for edges one pixel wide. It falls at least linearly with the thickness, and at second order once slices are
    thinner than the object's features along the beam.

    Args:
        accuracy: relative error of the scattered wave.
        depth_of_field_m: depth of field at a resolution of one pixel.
    """
    return accuracy / _ERROR_PER_DEPTH_OF_FIELD * depth_of_field_m


def halo_pixels(accuracy: float, *, wavelength_m: float, distance_m: float, pixel_size_m: float) -> int:
    """Return the halo, in pixels, that keeps a cut-out field undisturbed by its surroundings over a distance.

    Light scattered by a pixel spreads sideways by up to λL/2Δx² pixels, and the edge of the field diffracts. A halo of
    (0.27 + 0.008/accuracy)·λL/Δx² pixels is enough for weak and strong objects with sharp edges and features of three
    pixels. The literature's halo, 4√(λL)/Δx, keeps the error below 0.02 up to a thickness of eight depths of field. In
    thicker objects it cuts off part of the scattering angles.

    Args:
        accuracy: relative error of the scattered wave.
        wavelength_m: wavelength.
        distance_m: propagation distance L.
        pixel_size_m: lateral pitch.
    """
    spread_pixels = wavelength_m * distance_m / pixel_size_m**2
    return math.ceil((_SCATTERING_HALO + _EDGE_HALO / accuracy) * spread_pixels)


def pixel_pair(pixel_size_m: Pixel) -> tuple[float, float]:
    """Return the pitch as (y, x)."""
    if isinstance(pixel_size_m, int | float):
        return float(pixel_size_m), float(pixel_size_m)
    return float(pixel_size_m[0]), float(pixel_size_m[1])


def thickness_of_slices(slice_thickness_m: Thickness, slices: int) -> Tensor:
    """Return the thickness of each slice (z,), float64.

    Args:
        slice_thickness_m: one number for all slices, or one per slice.
        slices: number of slices.

    Raises:
        ScanError: the number of values is wrong, or a value is not positive.
    """
    thickness = torch.as_tensor(slice_thickness_m, dtype=torch.float64)
    if thickness.ndim == 0:
        thickness = thickness.expand(slices)
    # Bounds keep a refined thickness positive. Reading it from an accelerator would make the host wait.
    positive = thickness.device.type != "cpu" or bool((thickness > 0).all())
    if thickness.shape != (slices,) or not positive:
        raise ScanError(
            "Every slice needs one thickness larger than zero.",
            got=f"{thickness.numel()} values, the smallest {float(thickness.min()):g} m, for {slices} slices.",
            remedy="give one number for all slices, or one per slice.",
        )
    return thickness


def check_wave_and_object(wave: Tensor, delta: Tensor, beta: Tensor, windows: Windows | None = None) -> None:
    """Check that shapes and types are consistent.

    Raises:
        ScanError: the wave is not complex (view, y, x); δ and β are not (z, y, x) or (z, view, y, x) on its grid; or a
            window extends beyond the planes.
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
            remedy="reshape them; z is the first axis of δ and β.",
        )
    if windows is None:
        return
    last = tuple(plane - window for plane, window in zip(delta.shape[-2:], wave.shape[-2:], strict=True))
    inside = all(0 <= y <= last[0] and 0 <= x <= last[1] for y, x in windows)
    if delta.ndim != 3 or len(windows) != len(wave) or not inside:
        raise ScanError(
            "Every view needs a window inside the planes (z, y, x) of the object.",
            got=f"{len(windows)} windows for a wave {tuple(wave.shape)} in planes {tuple(delta.shape)}.",
            remedy="pad the planes with vacuum, or move the windows.",
        )
