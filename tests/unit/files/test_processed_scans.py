"""Scan files whose frames are processed: what is read of the file, what is staged, what an inspection tells."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import inspect_scan, linked_files, read_scan, write_scan
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import FrameProcessing, Recipe

DATA = "entry_1/instrument_1/detector_1/data"
VIEWS = np.arange(8)


def scan_of(shape=(48, 64)):
    stored = np.random.default_rng(0).poisson(1000, (9, *shape)).astype(np.uint16)
    frames = Frames(stored, rows=VIEWS, flat_rows=(8,), orientation="flip_x")
    geometry = hologram_geometry()
    return Scan(replace(geometry, detector=replace(geometry.detector, shape=shape)), frames)


@pytest.fixture
def scan_file(tmp_path):
    write_scan(tmp_path / "scan.cxi", scan_of())
    return tmp_path / "scan.cxi"


def test_chunks_outside_of_the_region_are_not_read(scan_file):
    """One of them is damaged in every frame."""
    with h5py.File(scan_file, "r+") as file:
        stored = file[DATA][()]
        del file[DATA]
        data = file.create_dataset(DATA, data=stored, chunks=(1, 16, 16), compression="gzip")
        for row in range(len(stored)):
            data.id.write_direct_chunk((row, 32, 48), b"damaged")
    with pytest.raises(FramesError, match="readable"):
        read_scan(scan_file).frames.read(VIEWS[:1])
    scan = read_scan(scan_file, frames=FrameProcessing(region="8:32,8:56", zingers=False))
    np.testing.assert_allclose(
        scan.frames.read(VIEWS), np.flip(stored[:8, 8:32, 8:56] / stored[8, 8:32, 8:56], -1), rtol=1e-6
    )


def test_the_staged_copy_is_the_processed_scan(scan_file, tmp_path):
    scan = read_scan(scan_file, frames=FrameProcessing(region="-4:20,10:40", binning=2))
    assert linked_files(scan) is None
    write_scan(tmp_path / "job.h5", scan, files=linked_files(scan))
    staged = read_scan(tmp_path / "job.h5")
    np.testing.assert_array_equal(staged.frames.read(VIEWS), scan.frames.read(VIEWS))
    np.testing.assert_array_equal(staged.frames.mask, scan.frames.mask)
    assert staged.geometry.detector == scan.geometry.detector
    np.testing.assert_allclose(staged.geometry.position_m, scan.geometry.position_m, atol=1e-15)
    assert staged.frames.saturation == 4 * 65535


def test_plan_and_inspection_see_the_processed_frames(scan_file):
    frames = FrameProcessing(region="8:40,0:32", binning=2)
    inspection = inspect_scan(scan_file, frames=frames)
    assert inspection.frames is not None
    assert inspection.frames.shape == (16, 16)
    assert any("binned by 2" in warning for warning in inspection.warnings)
    assert inspection.scan is not None
    grid = make_plan(Recipe(ranks=1, device="cpu", held_back_every=0), inspection.scan).grid
    assert grid.voxel_size_m[1:] == pytest.approx((2e-9, 2e-9))
    assert grid.shape[1] == 16


def test_an_inspection_lists_the_error_of_the_region(scan_file):
    inspection = inspect_scan(scan_file, frames=FrameProcessing(region="0:5,0:5", binning=2))
    assert inspection.scan is None
    assert "frames.region" in str(inspection.errors[-1])
    assert inspection.frames is not None
