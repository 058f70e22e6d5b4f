"""Projection: the thin-sample baseline, one transmission of the line integrals in the volume's mid-plane."""

import torch
from torch import Tensor

from bluesky_multislice.choices import Kernel
from bluesky_multislice.optics.multislice import multislice
from bluesky_multislice.optics.sampling import (
    Pixel,
    Thickness,
    Windows,
    check_wave_and_object,
    thickness_of_slices,
)
from bluesky_multislice.optics.split_step import Gradient


def projection(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: Thickness,
    windows: Windows | None = None,
    absorber: Tensor | None = None,
    gradient: Gradient = "auto",
    kernel: Kernel = "angular_spectrum",
    between_mid_planes: bool = False,
) -> Tensor:
    """Return the wave at the exit plane, with the whole object concentrated in its mid-plane.

    Arguments, result and errors as in ``multislice``.
    """
    check_wave_and_object(wave, delta, beta, windows)
    thickness = thickness_of_slices(slice_thickness_m, len(delta))
    weight = (thickness / thickness.sum()).to(delta)
    return multislice(
        wave,
        torch.tensordot(weight, delta, 1)[None],
        torch.tensordot(weight, beta, 1)[None],
        wavelength_m=wavelength_m,
        pixel_size_m=pixel_size_m,
        slice_thickness_m=thickness.sum()[None],
        windows=windows,
        absorber=absorber,
        gradient=gradient,
        kernel=kernel,
        between_mid_planes=between_mid_planes,
    )
