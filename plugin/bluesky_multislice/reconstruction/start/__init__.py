"""What a reconstruction starts from: inverse retrievals of a first volume and probe, and of the rotation axis."""

from bluesky_multislice.reconstruction.start.back_projection import angle_weights, back_project
from bluesky_multislice.reconstruction.start.first_probe import first_probe, light_of_frames
from bluesky_multislice.reconstruction.start.first_volume import first_volume
from bluesky_multislice.reconstruction.start.joint_illumination import empty_beam, probe_of_flats
from bluesky_multislice.reconstruction.start.light import Light, measure_light
from bluesky_multislice.reconstruction.start.rotation_axis import find_axis_pixels, move_axis
from bluesky_multislice.reconstruction.start.shadows import (
    candidate_distances_m,
    depth_of_focus_m,
    shadow_likeness,
    shadows_distance_m,
)
from bluesky_multislice.reconstruction.start.thin_sample import contrast_transfer_phase, paganin_phase

__all__ = [
    "Light",
    "angle_weights",
    "back_project",
    "candidate_distances_m",
    "contrast_transfer_phase",
    "depth_of_focus_m",
    "empty_beam",
    "find_axis_pixels",
    "first_probe",
    "first_volume",
    "light_of_frames",
    "measure_light",
    "move_axis",
    "paganin_phase",
    "probe_of_flats",
    "shadow_likeness",
    "shadows_distance_m",
]
