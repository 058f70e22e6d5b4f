"""Full-field transmission microscopy: a lens images the sample onto the camera."""

import torch
from torch import Tensor

from bluesky_multislice.measurement import ScanField, ScanGeometry
from bluesky_multislice.models.techniques.holography import plane_wave
from bluesky_multislice.models.techniques.technique import Technique


def pupil(geometry: ScanGeometry, fy: Tensor, fx: Tensor) -> Tensor:
    """Return the pupil (y, x) of a lens: 1 up to the frequency numerical aperture / wavelength, else 0."""
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
            description="Numerical aperture of the lens: sine of its largest acceptance angle.",
        ),
    ),
)
