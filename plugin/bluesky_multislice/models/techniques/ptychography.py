"""Ptychography: a probe is scanned over the sample with overlap; far-field patterns or near-field frames."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models.illumination import embed
from bluesky_multislice.models.techniques.technique import FitDefaults, Technique
from bluesky_multislice.optics import propagate


def probe_of_mean_frame(
    geometry: ScanGeometry, mean_frame: NDArray, *, window: tuple[int, int], pixel_size_m: tuple[float, float]
) -> Tensor:
    """Return a first probe (1, y, x) at z = 0 from the mean frame.

    Near field: the mean frame's amplitude, brought back to z = 0. Far field: the mean pattern's amplitude with flat
    phase is the wave in the focus; where the focus distance is known, it is brought from there to z = 0.

    Args:
        geometry: the scan.
        mean_frame: (y, x) mean over views, zero where masked.
        window: pixels (y, x) of the probe.
        pixel_size_m: the object's pitch (y, x).
    """
    amplitude = torch.as_tensor(np.sqrt(mean_frame), dtype=torch.complex64)[None]
    optics = {"wavelength_m": geometry.beam.wavelength_m, "pixel_size_m": pixel_size_m, "kernel": "fresnel"}
    if geometry.detector.regime == "near_field":
        way = -float(geometry.effective_distance_m.mean())
        return propagate(embed(amplitude.numpy(), window), distance_m=way, **optics)
    focus = torch.fft.ifft2(torch.fft.ifftshift(amplitude, dim=(-2, -1)), norm="ortho")
    focus = torch.fft.fftshift(focus, dim=(-2, -1))
    distance_m = 0.0 if geometry.focus_distance_m is None else float(geometry.focus_distance_m[0])
    return propagate(focus, distance_m=distance_m, **optics)


PTYCHOGRAPHY = Technique(
    name="ptychography",
    first_probe=probe_of_mean_frame,
    overlapping=True,
    regime=None,
    fit=FitDefaults(
        refine_probe=True,
        # Measured on a thick phantom: error 0.068 against 0.143 without (patterns of 1e8 photons, probe unknown).
        total_variation=0.003,
        constrain_vacuum=True,
        gradient_floor=0.02,
        single_angle_optimiser="weighted",
        epochs=8,
        adam_epochs=15,
    ),
)
