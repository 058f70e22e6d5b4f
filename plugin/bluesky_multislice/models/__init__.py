"""Forward models: geometry in buffers, the unknowns always arguments, noiseless expected intensity out."""

from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.back_projection import angle_weights, back_project
from bluesky_multislice.models.forward import Edges, ForwardModel
from bluesky_multislice.models.frame_tiles import FrameTiles, even_tiles, tiles_fit
from bluesky_multislice.models.illumination import downsample, embed, upsample
from bluesky_multislice.models.registry import find_technique, technique_fields, technique_of, techniques
from bluesky_multislice.models.resampling import resample
from bluesky_multislice.models.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    shadow_likeness,
    shadows_distance_m,
)
from bluesky_multislice.models.technique import FitDefaults, Optics, ScanField, Technique
from bluesky_multislice.models.thin_sample import contrast_transfer_phase, paganin_phase
from bluesky_multislice.models.turned import Turned

__all__ = [
    "NO_ADJUSTMENTS",
    "Adjustments",
    "Edges",
    "FitDefaults",
    "ForwardModel",
    "FrameTiles",
    "Optics",
    "ScanField",
    "Technique",
    "Turned",
    "angle_weights",
    "back_project",
    "candidate_distances_m",
    "contrast_transfer_phase",
    "depth_of_focus_m",
    "downsample",
    "embed",
    "even_tiles",
    "find_technique",
    "paganin_phase",
    "resample",
    "shadow_likeness",
    "shadows_distance_m",
    "technique_fields",
    "technique_of",
    "techniques",
    "tiles_fit",
    "upsample",
]
