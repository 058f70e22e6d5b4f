"""Ptychography: a probe is scanned over the sample with overlap, with far-field or near-field frames."""

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
    """Return an initial probe (1, y, x) at z = 0 from the mean frame.

    Near field: the amplitude of the mean frame, propagated back to z = 0. Far field: the inverse FFT of the mean
    pattern's amplitude, which is the wave in the focus; it is propagated to z = 0 if the focus distance is known.

    Args:
        geometry: the scan.
        mean_frame: (y, x) mean over views, zero in masked pixels.
        window: pixels (y, x) of the probe.
        pixel_size_m: the object's pitch (y, x).
    """
    amplitude = torch.as_tensor(np.sqrt(mean_frame), dtype=torch.complex64)[None]
    optics = {"wavelength_m": geometry.beam.wavelength_m, "pixel_size_m": pixel_size_m, "kernel": "fresnel"}
    if geometry.detector.regime == "near_field":
        distance_m = -float(geometry.effective_distance_m.mean())
        return propagate(embed(amplitude.numpy(), window), distance_m=distance_m, **optics)
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
        # Error on a thick phantom: 0.068, and 0.143 without it (patterns of 1e8 photons, unknown probe).
        total_variation=0.003,
        constrain_vacuum=True,
        gradient_floor=0.02,
        single_angle_optimiser="weighted",
        epochs=8,
        adam_epochs=15,
    ),
)
