"""Frames of a known volume; the propagations themselves are held to analytic answers in tests/physics."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import VOXEL_M, ball, blank, hologram_geometry, pattern_scan

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Detector, Scan
from bluesky_multislice.reconstruction import add_photon_noise, simulate_frames

PITCH = (VOXEL_M, VOXEL_M, VOXEL_M)
DELTA = ball().astype(float)


def predicted(scan, delta=DELTA, beta=0.1 * DELTA, voxel_size_m=PITCH, **choice):
    return np.array(list(simulate_frames(scan, delta, beta, voxel_size_m=voxel_size_m, **choice)))


@pytest.fixture(scope="module")
def scan():
    return blank(hologram_geometry())


@pytest.fixture(scope="module")
def frames(scan):
    return predicted(scan)


def test_vacuum_in_a_plane_wave_gives_ones(scan):
    vacuum = predicted(scan, np.zeros((16, 16, 16)), np.zeros((16, 16, 16)))
    assert vacuum.dtype == np.float64
    np.testing.assert_allclose(vacuum, 1.0, rtol=1e-12)


def test_a_probe_replaces_the_plane_wave(scan):
    empty = np.zeros((16, 16, 16))
    patterns, _ = pattern_scan(angles=1)
    lit = predicted(Scan(patterns.geometry, patterns.frames, 2 * patterns.probe), empty, empty)
    assert lit.sum((1, 2)) == pytest.approx(4 * np.square(np.abs(patterns.probe)).sum(), rel=1e-5)


def test_views_come_in_the_scans_order_however_angles_and_batches_fall(scan, frames):
    order = np.array([3, 0, 3, 7, 1, 1, 0])
    shuffled = blank(scan.geometry.select(order))
    np.testing.assert_allclose(predicted(shuffled), frames[order], rtol=1e-12)
    many = blank(scan.geometry.select(np.full(40, 5)))
    np.testing.assert_allclose(predicted(many), np.repeat(frames[5:6], 40, axis=0), rtol=1e-12)


def test_each_propagation_gives_other_frames_that_are_close(scan, frames):
    for propagation in ("finite-difference", "projection"):
        other = predicted(scan, propagation=propagation)
        assert 1e-4 < np.linalg.norm(other - frames) / np.linalg.norm(frames - 1) < 0.5, propagation


def test_more_slices_come_closer_to_every_plane(scan, frames):
    errors = [np.abs(predicted(scan, slices=slices) - frames).max() for slices in (1, 2, 4, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3
    assert errors[-1] == 0


def test_one_slice_is_the_projection(scan):
    np.testing.assert_allclose(predicted(scan, slices=1), predicted(scan, propagation="projection"), rtol=1e-9)


def test_photon_noise_has_the_mean_and_variance_of_poissons_law():
    counts = add_photon_noise(np.full((4, 50, 50), 0.5), scale=1000, seed=0)
    assert counts.dtype == np.float64
    assert counts.mean() == pytest.approx(500, rel=0.01)
    assert counts.var() == pytest.approx(500, rel=0.05)
    np.testing.assert_array_equal(counts, np.rint(counts))


def test_photon_noise_follows_its_seed():
    first, again, other = (add_photon_noise(np.ones((2, 8, 8)), scale=100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(("scale", "seed"), [(0, 0), (-1, 0), (np.nan, 0), (np.inf, 0), (1, -1)])
def test_photons_and_seeds_that_no_detector_has_are_refused(scale, seed):
    with pytest.raises(PlanError, match="photon"):
        add_photon_noise(np.ones((1, 2, 2)), scale=scale, seed=seed)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"voxel_size_m": (1e-9, 2e-9, 2e-9)}, "object pixel"),
        ({"voxel_size_m": (2e-9, 1e-9, 1e-9)}, "as deep as wide"),
        ({"slices": 500}, "at least one plane"),
        ({"slices": 0}, "at least one plane"),
        ({"slices": -4}, "at least one plane"),
        ({"beta": DELTA[:8]}, "the same shape"),
        ({"delta": DELTA[0], "beta": DELTA[0]}, r"\(z, y, x\)"),
        ({"delta": DELTA * np.nan}, "finite"),
        ({"beta": DELTA + np.inf}, "finite"),
    ],
)
def test_a_volume_that_does_not_fit_is_refused(scan, changed, words):
    with pytest.raises(PlanError, match=words):
        predicted(scan, **changed)


def test_one_angle_takes_voxels_deeper_than_wide(scan):
    single = blank(scan.geometry.select(np.array([0])))
    deep = predicted(single, DELTA[:8], 0 * DELTA[:8], voxel_size_m=(2e-9, 1e-9, 1e-9))
    assert deep.shape == (1, 16, 16)


def test_frames_need_not_be_square():
    geometry = hologram_geometry()
    oblong = replace(geometry, detector=Detector((12, 16), geometry.detector.pixel_size_m, "near_field"))
    assert predicted(blank(oblong)).shape == (8, 12, 16)
