"""Forward models: geometry in buffers, the unknowns always arguments, noiseless expected intensity out."""

from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.forward import Edges, ForwardModel
from bluesky_multislice.models.illumination import downsample, embed, initial_probe, upsample
from bluesky_multislice.models.resampling import resample
from bluesky_multislice.models.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    shadow_likeness,
    shadows_distance_m,
)

__all__ = [
    "NO_ADJUSTMENTS",
    "Adjustments",
    "Edges",
    "ForwardModel",
    "candidate_distances_m",
    "depth_of_focus_m",
    "downsample",
    "embed",
    "initial_probe",
    "resample",
    "shadow_likeness",
    "shadows_distance_m",
    "upsample",
]
