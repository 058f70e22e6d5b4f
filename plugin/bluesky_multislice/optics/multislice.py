"""Multislice propagation: half a step, then transmit and step in turn, and half a step (Strang splitting).

Neighbouring half steps merge, so nz slices cost nz + 1 propagations and the error is second order in the thickness.
"""

from torch import Tensor

from bluesky_multislice.optics.propagation import Kernel, propagate
from bluesky_multislice.optics.sampling import Pixel, pixel_pair
from bluesky_multislice.optics.transmission import object_slices


def multislice(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: float,
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return the wave at the exit plane of a thick object.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ (z, y, x), shared by all views, or (z, view, y, x).
        beta: β, the same shape as δ.
        wavelength_m: wavelength.
        pixel_size_m: lateral pitch, one number or (y, x).
        slice_thickness_m: thickness of a slice.
        kernel: angular spectrum or Fresnel.

    Returns:
        complex (view, y, x). Differentiable in wave, δ and β.

    Raises:
        ScanError: shapes contradict each other.

    Source: Cowley & Moodie, Acta Cryst. 10, 609 (1957); conventions in ``optics/conventions.py``.
    """
    return multislice_through(
        wave,
        object_slices(wave, delta, beta, wavelength_m=wavelength_m, thickness_m=slice_thickness_m),
        wavelength_m=wavelength_m,
        pixel_size_m=pixel_pair(pixel_size_m),
        slice_thickness_m=slice_thickness_m,
        kernel=kernel,
    )


def multislice_through(
    wave: Tensor,
    slices: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: tuple[float, float],
    slice_thickness_m: float,
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return the exit wave for transmissions (z, view, y, x) that have been computed already."""
    optics = {"wavelength_m": wavelength_m, "pixel_size_m": pixel_size_m, "kernel": kernel}
    step = slice_thickness_m / 2
    for slice_transmission in slices.unbind(0):
        wave = propagate(wave, distance_m=step, **optics) * slice_transmission
        step = slice_thickness_m
    return propagate(wave, distance_m=slice_thickness_m / 2, **optics)
