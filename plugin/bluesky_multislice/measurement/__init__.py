"""Measured data, in numpy: geometry, frames, flat field, scan, and plausibility checks."""

from bluesky_multislice.measurement.bad_pixels import BadPixels, find_bad_pixels, mask_bad_pixels
from bluesky_multislice.measurement.flat_field import FlatField, check_exposures, detector_positions_differ
from bluesky_multislice.measurement.frame_groups import Combination, CombinedFrames, combined_frames
from bluesky_multislice.measurement.frames import Frames, FrameSource, Orientation, Saturated, unorient
from bluesky_multislice.measurement.geometry import Beam, Detector, Regime, ScanGeometry, VolumeGrid, depth_of_field_m
from bluesky_multislice.measurement.masks import MaskSense, good_pixels
from bluesky_multislice.measurement.plausibility import (
    angle_warnings,
    check_energy,
    energy_problem,
    pattern_warnings,
    position_warnings,
)
from bluesky_multislice.measurement.refined_quantities import (
    REFINED_QUANTITIES,
    Quantity,
    RefinedQuantityRow,
    Scheduled,
)
from bluesky_multislice.measurement.scan import Scan

__all__ = [
    "REFINED_QUANTITIES",
    "BadPixels",
    "Beam",
    "Combination",
    "CombinedFrames",
    "Detector",
    "FlatField",
    "FrameSource",
    "Frames",
    "MaskSense",
    "Orientation",
    "Quantity",
    "RefinedQuantityRow",
    "Regime",
    "Saturated",
    "Scan",
    "ScanGeometry",
    "Scheduled",
    "VolumeGrid",
    "angle_warnings",
    "check_energy",
    "check_exposures",
    "combined_frames",
    "depth_of_field_m",
    "detector_positions_differ",
    "energy_problem",
    "find_bad_pixels",
    "good_pixels",
    "mask_bad_pixels",
    "pattern_warnings",
    "position_warnings",
    "unorient",
]
