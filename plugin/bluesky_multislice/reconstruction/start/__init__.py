"""Initial guess of a reconstruction: volume, probe, alignment and rotation axis."""

from bluesky_multislice.reconstruction.start.alignment import Alignment, align_series, move_views
from bluesky_multislice.reconstruction.start.back_projection import angle_weights, back_project
from bluesky_multislice.reconstruction.start.empty_frames import misfits_of_empty_sample
from bluesky_multislice.reconstruction.start.first_probe import first_probe, probe_intensity_from_frames
from bluesky_multislice.reconstruction.start.first_volume import first_volume
from bluesky_multislice.reconstruction.start.former_values import former_differences, with_former_positions
from bluesky_multislice.reconstruction.start.frame_statistics import FrameStatistics, measure_frames
from bluesky_multislice.reconstruction.start.joint_illumination import empty_beam, probe_of_flats
from bluesky_multislice.reconstruction.start.rotation_axis import find_axis_pixels
from bluesky_multislice.reconstruction.start.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    distance_from_shadows_m,
    shadow_similarity,
)
from bluesky_multislice.reconstruction.start.thin_sample import contrast_transfer_phase, paganin_phase

__all__ = [
    "Alignment",
    "FrameStatistics",
    "align_series",
    "angle_weights",
    "back_project",
    "candidate_distances_m",
    "contrast_transfer_phase",
    "depth_of_focus_m",
    "distance_from_shadows_m",
    "empty_beam",
    "find_axis_pixels",
    "first_probe",
    "first_volume",
    "former_differences",
    "measure_frames",
    "misfits_of_empty_sample",
    "move_views",
    "paganin_phase",
    "probe_intensity_from_frames",
    "probe_of_flats",
    "shadow_similarity",
    "with_former_positions",
]
