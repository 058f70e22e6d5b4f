"""Read-back noise is grouped; what differs on purpose is not."""

from dataclasses import replace

import numpy as np
import pytest

from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, group_geometry, group_readings

NOISE = np.random.default_rng(5).normal(size=4096)


def geometry(angle_deg, *, distance_m=0.1, focus_m=None, position_m=None, pixels=64, regime="near_field"):
    """Views of a detector with pixels of 1 µm."""
    angle_deg = np.asarray(angle_deg, float)
    views = len(angle_deg)
    return ScanGeometry(
        technique="holography",
        beam=Beam(1e-10, focus_m),
        detector=Detector((pixels, pixels), (1e-6, 1e-6), regime),
        distance_m=np.broadcast_to(distance_m, views).astype(float),
        angle_rad=np.radians(angle_deg),
        position_m=np.zeros((views, 2)) if position_m is None else position_m,
    )


def angles(scan, **options):
    return len(np.unique(group_geometry(scan, overlapping=True, **options)[0].angle_rad))


@pytest.mark.parametrize("noise_deg", [1e-14, 1e-9, 1e-5, 5e-4])
@pytest.mark.parametrize("steps", [[30.0], [0.0, 90.0], np.arange(0, 180, 0.5), -np.arange(0, 720, 7.0)])
def test_positions_at_the_same_angles(noise_deg, steps):
    read = np.repeat(steps, 16) + noise_deg * NOISE[np.arange(16 * len(steps)) % 4096]
    grouped, notes = group_geometry(geometry(read), overlapping=True)
    assert len(np.unique(grouped.angle_rad)) == len(steps)
    np.testing.assert_allclose(np.degrees(grouped.angle_rad), read, rtol=0, atol=10 * noise_deg + 1e-12)
    assert f"{len(read)} readings grouped into {len(steps)}" in notes["angle"]
    assert "degrees apart" in notes["angle"]


@pytest.mark.parametrize("order", ["sorted", "shuffled", "golden"])
@pytest.mark.parametrize("pixels", [16, 2048])
def test_a_tomogram_of_unique_angles_keeps_all(order, pixels):
    """As measured at Diamond: steps of 0.06° with read-back noise, on any crop of the detector."""
    read = 90 + 0.06 * np.arange(3001) + 1e-3 * NOISE[:3001]
    if order == "shuffled":
        np.random.default_rng(0).shuffle(read)
    if order == "golden":
        read = np.arange(3001) * 0.618034 % 1 * 180
    scan = geometry(read, pixels=pixels)
    grouped, notes = group_geometry(scan, overlapping=False)
    np.testing.assert_array_equal(grouped.angle_rad, scan.angle_rad)
    assert not notes


@pytest.mark.parametrize("pixels", [8, 64, 512, 2048])
@pytest.mark.parametrize("views", [2, 3, 40])
def test_a_fine_scan_keeps_its_angles(pixels, views):
    assert angles(geometry(0.01 * np.arange(views), pixels=pixels)) == views


def test_random_angles_that_are_close_by_chance_stay_apart():
    assert angles(geometry(np.random.default_rng(2).uniform(0, 180, 3000), pixels=16)) == 3000


def test_small_steps_do_not_join_to_a_drift():
    """Each step is far below a voxel, the whole drift is not."""
    assert angles(geometry(np.linspace(0, 1, 2000), pixels=64)) == 2000


def test_noise_larger_than_the_tolerance_is_kept():
    assert angles(geometry(30 + 0.1 * NOISE[:16], pixels=2048)) == 16


def test_equal_values_keep_their_last_digit():
    scan = geometry(np.repeat([0.1, 0.3, 0.7], 5))
    grouped, notes = group_geometry(scan, overlapping=True)
    np.testing.assert_array_equal(grouped.angle_rad, scan.angle_rad)
    assert not notes


@pytest.mark.parametrize("low", [0, -180])
def test_an_encoder_of_one_turn_that_jumps(low):
    read = 1e-5 * NOISE[:16] % 360 + low
    assert np.ptp(read) > 359
    assert angles(geometry(read)) == 1
    assert angles(geometry(np.r_[read, 90 + 1e-5 * NOISE[:16]])) == 2


def test_a_whole_turn_keeps_its_ends():
    scan = geometry(np.repeat(np.arange(361.0), 4))
    assert angles(scan) == 361
    np.testing.assert_array_equal(group_geometry(scan, overlapping=True)[0].angle_rad, scan.angle_rad)
    assert angles(geometry(np.repeat(np.arange(361.0), 4) + 1e-6 * NOISE[:1444])) == 361


def test_a_pair_with_a_lost_frame():
    assert angles(geometry(np.r_[np.repeat(np.arange(12.0), 2)[:-1]] + 1e-7 * NOISE[:23])) == 12


@pytest.mark.parametrize(("focus_m", "noise_m"), [(None, 1e-9), (None, 1e-6), (0.05, 1e-6), (1e-3, 1e-8)])
def test_distances_of_one_series(focus_m, noise_m):
    series = np.tile([0.1, 0.11, 0.13, 0.17], 6)
    scan = geometry(np.zeros(24), distance_m=series + noise_m * NOISE[:24], focus_m=focus_m)
    grouped, notes = group_geometry(scan, overlapping=False)
    assert len(np.unique(grouped.distance_m)) == 4
    assert len(np.unique(grouped.effective_distance_m)) == 4
    assert notes["distance"].startswith("24 readings grouped into 4")


def test_one_distance_is_one_distance_in_the_far_field_as_well():
    scan = geometry(np.zeros(9), distance_m=2 + 1e-7 * NOISE[:9], regime="far_field")
    assert np.ptp(group_geometry(scan, overlapping=True)[0].distance_m) == 0


@pytest.mark.parametrize("focus_m", [None, 0.5])
def test_distances_that_differ_on_purpose_stay_apart_even_if_the_pixels_are_too_coarse_to_tell(focus_m):
    series = np.repeat([0.1, 0.11, 0.12], 4)
    scan = geometry(np.zeros(12), distance_m=series, focus_m=focus_m)
    coarse = replace(scan, detector=replace(scan.detector, pixel_size_m=(75e-6, 75e-6)))
    assert len(np.unique(group_geometry(coarse, overlapping=False)[0].distance_m)) == 3
    single = coarse.select(np.array([0, 4, 8]))
    assert len(np.unique(group_geometry(single, overlapping=False)[0].distance_m)) == 3


def test_distances_of_details_of_nanometres_stay_apart():
    """Pixels of 5 nm resolve a defocus of a micrometre."""
    scan = geometry(np.zeros(12), distance_m=1e-4 + 1e-6 * np.arange(12) % 3)
    fine = replace(scan, detector=replace(scan.detector, pixel_size_m=(5e-9, 5e-9)))
    grouped, _ = group_geometry(fine, overlapping=False)
    np.testing.assert_array_equal(grouped.distance_m, fine.distance_m)


def test_focus_distances_of_a_sample_that_moves_along_the_beam():
    focus_m = tuple(np.tile([0.02, 0.03], 4) + 1e-9 * NOISE[:8])
    beam = group_geometry(geometry(np.zeros(8), focus_m=focus_m), overlapping=False)[0].beam
    assert len(set(beam.focus_distance_m)) == 2
    still = tuple(0.02 + 1e-9 * NOISE[:8])
    assert isinstance(
        group_geometry(geometry(np.zeros(8), focus_m=still), overlapping=False)[0].beam.focus_distance_m, float
    )


def test_positions_are_grouped_unless_a_probe_is_scanned():
    position_m = 1e-9 * NOISE[:16].reshape(8, 2)
    scan = geometry(np.arange(8.0), position_m=position_m)
    assert (np.ptp(group_geometry(scan, overlapping=False)[0].position_m, axis=0) == 0).all()
    np.testing.assert_array_equal(group_geometry(scan, overlapping=True)[0].position_m, position_m)


def test_the_widest_group_is_told():
    grouped, span = group_readings(np.array([1.0, 2.0, 1.001, 2.0005]), 0.01)
    np.testing.assert_allclose(grouped, [1.0005, 2.00025, 1.0005, 2.00025])
    assert span == pytest.approx(1e-3)


def test_one_reading():
    assert group_readings(np.array([3.0]), 1e-3) == (np.array([3.0]), 0.0)
