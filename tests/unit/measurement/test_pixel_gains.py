"""Gain errors of pixels that flats do not know are corrected where they are certain; clean frames are not touched."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from small_scan import VOXEL_M, blank, hologram_geometry, thick_scan

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import linked_files, read_scan, write_scan
from bluesky_multislice.measurement import Beam, Frames, FrameSteps, Scan, process_frames
from bluesky_multislice.recipe import FrameProcessing
from bluesky_multislice.reconstruction import simulate_frames

N, ANGLES = 32, 60


@pytest.fixture(scope="module")
def clean():
    """A tomogram of holograms of a mean near 1."""
    scan, _ = thick_scan(N, ANGLES)
    return Scan(scan.geometry, Frames(scan.frames.read(np.arange(ANGLES))))


@pytest.fixture(scope="module")
def tube():
    """Holograms of a tube around the rotation axis, which are the same at all angles."""
    geometry = replace(hologram_geometry(N, ANGLES, distance_m=50e-9), beam=Beam(1e-9))
    z, _, x = np.meshgrid(*(np.arange(N) - (N - 1) / 2,) * 3, indexing="ij")
    delta = (6e-3 * (np.abs(np.hypot(z, x) - 0.35 * N) < 0.05 * N)).astype(np.float32)
    frames = simulate_frames(blank(geometry), delta, 0.05 * delta, voxel_size_m=(VOXEL_M,) * 3)
    return Scan(geometry, Frames(np.array(list(frames))))


def gains(error, seed=0):
    return (1 + error * np.random.default_rng(seed).standard_normal((N, N))).astype(np.float32)


def measured(scan, error=0.0, photons=None):
    values = scan.frames.read(np.arange(ANGLES)) * gains(error)
    if photons is not None:
        values = np.random.default_rng(1).poisson(values * photons) / photons
    return replace(scan, frames=Frames(values.astype(np.float32)))


def corrected(scan, rings=None):
    return process_frames(scan, FrameSteps(zingers=False, rings=rings))


def gain_left(scan, clean):
    """Standard deviation of what is left of the gain errors in the mean frame."""
    of_frames = scan.frames.read(np.arange(ANGLES)) / clean.frames.read(np.arange(ANGLES))
    return float(np.std(of_frames.mean(axis=0)))


@pytest.mark.parametrize("photons", [None, 1000, 100])
def test_clean_scans_are_the_same_objects(photons, clean, tube):
    for scan in (clean, tube):
        noisy = measured(scan, photons=photons)
        assert corrected(noisy) is noisy


def test_gain_errors_of_three_per_cent_are_halved_and_told(clean):
    scan = measured(clean, 0.03, photons=10_000)
    found = corrected(scan)
    assert gain_left(scan, clean) > 0.028
    assert gain_left(found, clean) < 0.016
    assert "gain errors of single pixels of 2." in found.warnings[-1]
    assert "gain errors" in found.sources["frames"]
    assert corrected(scan, rings=False) is scan


def test_errors_that_cannot_be_told_from_the_sample_are_corrected_only_when_asked(clean):
    scan = measured(clean, 0.005)
    assert corrected(scan) is scan
    assert corrected(scan, rings=True).frames is not scan.frames


@pytest.mark.parametrize("orientation", ["as_is", "transpose_flip_y"])
def test_flats_are_corrected_and_darks_and_frames_stay(orientation, clean, tmp_path):
    dark, flat = np.full((N, N), 100.0, np.float32), 1100 + 50 * np.arange(N, dtype=np.float32)
    response = gains(0.03)
    stored = dark + clean.frames.read(np.arange(ANGLES)) * (flat - dark) * response
    rows = np.concatenate([stored, [np.broadcast_to(flat, (N, N)), dark]])
    mask = np.ones((N, N), bool)
    mask[3, 4] = False
    rows[:, 3, 4] = 0
    frames = Frames(
        rows, rows=np.arange(ANGLES), dark_rows=[61], flat_rows=[60], mask=mask, orientation=orientation, saturation=9e9
    )
    scan = replace(clean, frames=frames)
    found = corrected(scan)
    good, ratio = np.nonzero(mask), found.frames.source[60:61][0] - dark
    assert np.std((ratio / (flat - dark) / response)[good]) < 0.016
    assert_allclose(found.frames.source[0:60], rows[:60])
    assert_allclose(found.frames.source[61:62][0], rows[61])
    assert found.frames.saturation == 9e9
    write_scan(tmp_path / "frames.h5", found, files=linked_files(found))
    staged = read_scan(tmp_path / "frames.h5")
    assert_allclose(staged.frames.read(np.arange(3)), found.frames.read(np.arange(3)), rtol=1e-6)


def test_frames_that_are_no_tomogram_of_holograms_stay(clean):
    few = Scan(hologram_geometry(N, 8), Frames(measured(clean, 0.05).frames.read(np.arange(8))))
    assert corrected(few) is few
    one = replace(clean, geometry=replace(clean.geometry, angle_rad=np.zeros(ANGLES)))
    noisy = measured(one, 0.05)
    assert corrected(noisy) is noisy
    with pytest.raises(FramesError, match=r"holograms at several angles.*at 1 angles.*frames\.rings"):
        corrected(one, rings=True)


def test_the_recipe_asks_for_it():
    assert [FrameProcessing(rings=rings).steps.rings for rings in (None, True, False)] == [None, True, False]
