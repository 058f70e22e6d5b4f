"""Frames read from the detector's own files."""

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bluesky_multislice.catalog.frame_sources import DetectorFiles
from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import FrameFile

FRAMES = np.arange(5 * 3 * 4, dtype=np.uint16).reshape(5, 3, 4)


def write(path, frames):
    with h5py.File(path, "w") as file:
        file["data"] = frames
    return path


def test_several_files_are_one_scan_in_either_declared_shape(tmp_path):
    first, second = write(tmp_path / "a.h5", FRAMES[:3]), write(tmp_path / "b.h5", FRAMES[3:, np.newaxis])
    source = DetectorFiles([FrameFile(first, "data", 3), FrameFile(second, "data", 2)])
    assert (source.shape, source.dtype) == ((5, 3, 4), np.uint16)
    for rows in (slice(0, 5), slice(2, 4), slice(4, 5), slice(5, 6)):
        assert_array_equal(source[rows], FRAMES[rows])


def test_a_file_may_hold_more_frames_than_the_scan(tmp_path):
    source = DetectorFiles([FrameFile(write(tmp_path / "a.h5", FRAMES), "data", 2)])
    assert source.shape == (2, 3, 4)
    assert_array_equal(source[0:9], FRAMES[:2])


def test_files_of_different_shapes_are_refused(tmp_path):
    first, second = write(tmp_path / "a.h5", FRAMES), write(tmp_path / "b.h5", FRAMES[:, :2])
    with pytest.raises(FramesError, match="one shape"):
        DetectorFiles([FrameFile(first, "data", 5), FrameFile(second, "data", 5)])


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(FramesError, match=r"gone\.h5"):
        DetectorFiles([FrameFile(tmp_path / "gone.h5", "data", 1)])


def virtual(path, rows=slice(0, 5)):
    """A file whose virtual dataset "data" is linked to raw.h5 beside it."""
    write(path.parent / "raw.h5", FRAMES)
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout(FRAMES.shape, FRAMES.dtype)
        layout[rows] = h5py.VirtualSource("raw.h5", "data", FRAMES.shape)[rows]
        file.create_virtual_dataset("data", layout)
    return path


def test_virtual_datasets_of_a_detector(tmp_path):
    source = DetectorFiles([FrameFile(virtual(tmp_path / "v.h5"), "data", 5)])
    source.check_mask(None)
    assert_array_equal(source[1:4], FRAMES[1:4])


def test_a_virtual_dataset_whose_source_is_gone_is_refused(tmp_path):
    path = virtual(tmp_path / "v.h5")
    (tmp_path / "raw.h5").unlink()
    with pytest.raises(FramesError, match=r"raw\.h5"):
        DetectorFiles([FrameFile(path, "data", 5)])


def test_frames_that_are_not_mapped_are_refused(tmp_path):
    source = DetectorFiles([FrameFile(virtual(tmp_path / "v.h5", slice(0, 4)), "data", 5)])
    with pytest.raises(FramesError, match=r"not mapped.*frame 4 of .*v\.h5"):
        source.check_mask(None)
    source.check_mask(np.zeros(FRAMES.shape[1:], bool))


def test_raw_files_with_relative_names_are_not_linked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with h5py.File("a.h5", "w") as file:
        file.create_dataset("data", data=FRAMES, external=[("raw.bin", 0, FRAMES.nbytes)])
    monkeypatch.chdir("/")
    source = DetectorFiles([FrameFile(tmp_path / "a.h5", "data", 5)])
    assert not source.linkable
    assert_array_equal(source[0:5], FRAMES)
