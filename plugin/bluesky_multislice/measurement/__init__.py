"""Measured data, in numpy: geometry, frames, flat field, scan, and plausibility checks."""

from bluesky_multislice.measurement.bad_pixels import BadPixels, find_bad_pixels, mask_bad_pixels
from bluesky_multislice.measurement.flat_field import FlatField, check_exposures, detector_positions_differ
from bluesky_multislice.measurement.former_result import FormerResult, VolumeReader
from bluesky_multislice.measurement.found_value import FoundValue, PlaceKind, as_numbers, as_word, constant
from bluesky_multislice.measurement.frame_groups import Combination, CombinedFrames, combined_frames
from bluesky_multislice.measurement.frame_rows import (
    FrameRows,
    mean_of_samples,
    rows_by_number,
    rows_by_time,
    rows_of_stack,
)
from bluesky_multislice.measurement.frame_window import read_part
from bluesky_multislice.measurement.frames import Frames, FrameSource, Orientation, Saturated, unorient
from bluesky_multislice.measurement.geometry import Beam, Detector, Regime, ScanGeometry, VolumeGrid, depth_of_field_m
from bluesky_multislice.measurement.half_acquisition import (
    AXIS_REACH,
    find_axis_near_edge,
    move_axis,
    with_moved_axis,
)
from bluesky_multislice.measurement.joined_frames import JoinedFrames
from bluesky_multislice.measurement.masks import MaskSense, good_pixels
from bluesky_multislice.measurement.monochromator import bragg_energy_ev, lattice_spacing_m
from bluesky_multislice.measurement.outlier_frames import OUTLIER_FACTOR, outlier_frames
from bluesky_multislice.measurement.plausibility import (
    angle_warnings,
    check_energy,
    energy_problem,
    pattern_warnings,
    position_warnings,
)
from bluesky_multislice.measurement.processed_frames import FrameSteps, process_frames
from bluesky_multislice.measurement.read_back import group_detector_positions, group_geometry, group_readings
from bluesky_multislice.measurement.refined_quantities import (
    REFINED_QUANTITIES,
    Quantity,
    RefinedQuantityRow,
    Scheduled,
)
from bluesky_multislice.measurement.scan import Scan
from bluesky_multislice.measurement.scan_assembly import (
    chosen,
    detector_position_m,
    geometry_values,
    image_keys,
    orientation_of_frames,
    per_row,
    scan_geometry,
    single_number,
)
from bluesky_multislice.measurement.scan_fields import SCAN_FIELDS, ScanField

__all__ = [
    "AXIS_REACH",
    "OUTLIER_FACTOR",
    "REFINED_QUANTITIES",
    "SCAN_FIELDS",
    "BadPixels",
    "Beam",
    "Combination",
    "CombinedFrames",
    "Detector",
    "FlatField",
    "FormerResult",
    "FoundValue",
    "FrameRows",
    "FrameSource",
    "FrameSteps",
    "Frames",
    "JoinedFrames",
    "MaskSense",
    "Orientation",
    "PlaceKind",
    "Quantity",
    "RefinedQuantityRow",
    "Regime",
    "Saturated",
    "Scan",
    "ScanField",
    "ScanGeometry",
    "Scheduled",
    "VolumeGrid",
    "VolumeReader",
    "angle_warnings",
    "as_numbers",
    "as_word",
    "bragg_energy_ev",
    "check_energy",
    "check_exposures",
    "chosen",
    "combined_frames",
    "constant",
    "depth_of_field_m",
    "detector_position_m",
    "detector_positions_differ",
    "energy_problem",
    "find_axis_near_edge",
    "find_bad_pixels",
    "geometry_values",
    "good_pixels",
    "group_detector_positions",
    "group_geometry",
    "group_readings",
    "image_keys",
    "lattice_spacing_m",
    "mask_bad_pixels",
    "mean_of_samples",
    "move_axis",
    "orientation_of_frames",
    "outlier_frames",
    "pattern_warnings",
    "per_row",
    "position_warnings",
    "process_frames",
    "read_part",
    "rows_by_number",
    "rows_by_time",
    "rows_of_stack",
    "scan_geometry",
    "single_number",
    "unorient",
    "with_moved_axis",
]
