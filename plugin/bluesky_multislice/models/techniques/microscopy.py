"""Full-field transmission microscopy: a lens behind the sample images it onto the camera."""

import torch
from torch import Tensor

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models.techniques.holography import plane_wave
from bluesky_multislice.models.techniques.technique import ScanField, Technique


def pupil(geometry: ScanGeometry, fy: Tensor, fx: Tensor) -> Tensor:
    """Return what a lens lets through: every frequency (y, x) up to its numerical aperture over the wavelength."""
    cutoff = geometry.values["numerical_aperture"] / geometry.beam.wavelength_m
    return (fy**2 + fx**2 <= cutoff**2).to(torch.complex128)


MICROSCOPY = Technique(
    name="microscopy",
    first_probe=plane_wave,
    optics=pupil,
    imaged=True,
    fields=(
        ScanField(
            name="numerical_aperture",
            unit=None,
            place="instrument_1/lens_1/numerical_aperture",
            description="Sine of the largest angle under which the lens takes light from the sample.",
        ),
    ),
)
