"""Projection: the thin-sample baseline, one transmission of the line integrals in the volume's mid-plane."""

from torch import Tensor

from bluesky_multislice.optics.multislice import multislice, multislice_through
from bluesky_multislice.optics.propagation import Kernel
from bluesky_multislice.optics.sampling import Pixel, check_wave_and_object


def projection(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: float,
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return the wave at the exit plane as if the whole object stood in its mid-plane.

    Arguments, result and errors as in ``multislice``.
    """
    check_wave_and_object(wave, delta, beta)
    return multislice(
        wave,
        delta.mean(0, keepdim=True),
        beta.mean(0, keepdim=True),
        wavelength_m=wavelength_m,
        pixel_size_m=pixel_size_m,
        slice_thickness_m=slice_thickness_m * delta.shape[0],
        kernel=kernel,
    )


def projection_through(
    wave: Tensor,
    slices: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: tuple[float, float],
    slice_thickness_m: float,
    kernel: Kernel = "angular_spectrum",
) -> Tensor:
    """Return the exit wave for transmissions (z, view, y, x) that have been computed already."""
    return multislice_through(
        wave,
        slices.prod(0, keepdim=True) if slices.shape[0] > 1 else slices,
        wavelength_m=wavelength_m,
        pixel_size_m=pixel_size_m,
        slice_thickness_m=slice_thickness_m * slices.shape[0],
        kernel=kernel,
    )
