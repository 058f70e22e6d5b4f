"""A whole scan on the simulated beamline, through a real RunEngine and Tiled, gives back the same numbers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bluesky_multislice.catalog import resolve_scan
from bluesky_multislice.catalog.frame_sources import TiledFrames
from bluesky_multislice.simulation.beamline import run_scan


def test_a_scan_comes_back_with_the_same_numbers(tiled_client, folder, geometry, frames):
    taken: list[int] = []
    uid = run_scan(tiled_client, frames, geometry, folder=folder, progress=taken.append)
    resolved = resolve_scan(tiled_client, uid)
    found = resolved.scan.geometry
    assert taken == [1, 2, 3, 4]
    assert (resolved.run_uid, found.technique) == (uid, "ptychography")
    assert found.beam.wavelength_m == pytest.approx(1e-10)
    assert found.beam.focus_distance_m == 3.65e-3
    assert found.detector == geometry.detector
    assert_allclose(found.angle_rad, geometry.angle_rad, rtol=1e-12)
    assert_allclose(found.position_m, geometry.position_m, rtol=1e-12)
    assert_array_equal(found.distance_m, geometry.distance_m)
    assert_array_equal(resolved.scan.frames.read(np.arange(4)), frames)
    assert resolved.scan.sources["energy"] == "start:energy_ev"
    assert resolved.scan.sources["angle"] == "primary:rotation_angle"
    assert resolved.start["detector_image"] == "camera"


def test_the_detector_file_is_pointed_at_and_not_copied(tiled_client, folder, geometry, frames):
    resolved = resolve_scan(tiled_client, run_scan(tiled_client, frames, geometry, folder=folder))
    (file,) = resolved.files
    assert (file.path, file.frames) == (next(folder.glob("*.h5")), 4)


def test_frames_over_http_equal_those_in_the_file(tiled_client, folder, geometry, frames):
    uid = run_scan(tiled_client, frames.astype(np.uint16), geometry, folder=folder)
    node = tiled_client[uid, "primary", "camera"]
    assert node.shape == (4, 1, 6, 8)  # The trap: the file holds (4, 6, 8).
    source = TiledFrames(node, 4)
    assert source.shape == (4, 6, 8)
    assert_array_equal(source[1:3], frames.astype(np.uint16)[1:3])
    assert source[4:9].shape == (0, 6, 8)
    assert_array_equal(source.read_part(slice(1, 3), slice(2, 6), slice(3, 7)), frames.astype(np.uint16)[1:3, 2:6, 3:7])


def test_known_arrays_reach_the_scan(tiled_client, folder, geometry, frames):
    mask = np.zeros((6, 8), np.uint32)
    mask[2, 3] = 1
    probe = (np.arange(96).reshape(2, 6, 8) * (1 + 2j)).astype(np.complex64)
    known = {"detector_mask": mask, "probe": probe}
    scan = resolve_scan(tiled_client, run_scan(tiled_client, frames, geometry, folder=folder, known=known)).scan
    assert_array_equal(scan.frames.mask, mask == 0)
    assert_array_equal(scan.probe, probe)
    assert scan.sources["probe"] == "static:probe"


def test_a_detector_that_runs_out_of_frames_fails_the_run(tiled_client, folder, geometry, frames):
    with pytest.raises(Exception, match="no frame 3"):
        run_scan(tiled_client, frames[:3], geometry, folder=folder)
    assert tiled_client.values().last().stop["exit_status"] == "fail"
