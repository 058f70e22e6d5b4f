"""Forward models: noiseless expected intensity from the unknowns (arguments) and the geometry (buffers)."""

from bluesky_multislice.models.adjustments import NO_ADJUSTMENTS, Adjustments
from bluesky_multislice.models.forward import ForwardModel
from bluesky_multislice.models.frame_tiles import FrameTiles, even_tiles, tiles_are_valid
from bluesky_multislice.models.illumination import downsample, embed, upsample
from bluesky_multislice.models.options import ModelOptions, way_to_detector
from bluesky_multislice.models.resampling import resample
from bluesky_multislice.models.rotated_object import RotatedObject
from bluesky_multislice.models.techniques import (
    FitDefaults,
    Optics,
    Technique,
    find_technique,
    technique_fields,
    technique_of,
    techniques,
)

__all__ = [
    "NO_ADJUSTMENTS",
    "Adjustments",
    "FitDefaults",
    "ForwardModel",
    "FrameTiles",
    "ModelOptions",
    "Optics",
    "RotatedObject",
    "Technique",
    "downsample",
    "embed",
    "even_tiles",
    "find_technique",
    "resample",
    "technique_fields",
    "technique_of",
    "techniques",
    "tiles_are_valid",
    "upsample",
    "way_to_detector",
]
