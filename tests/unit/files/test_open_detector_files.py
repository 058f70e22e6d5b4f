"""Frames in files that a detector still has open for writing when its run has stopped."""

import subprocess
import sys
import time
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.detector_files import PATIENCE_VARIABLE
from bluesky_multislice.files.stored_frames import open_frames

N, SIDE = 6, 8
FRAMES = np.arange(1, N * SIDE * SIDE + 1, dtype=np.uint16).reshape(N, SIDE, SIDE)
WRITER = f"""
import sys, time, h5py, numpy as np
a = np.arange(1, {N * SIDE * SIDE + 1}, dtype="u2").reshape({N}, {SIDE}, {SIDE})
swmr, first, pause = sys.argv[2] == "swmr", int(sys.argv[3]), float(sys.argv[4])
f = h5py.File(sys.argv[1], "w", libver="latest")
d = f.create_dataset("d", (0, {SIDE}, {SIDE}), a.dtype, maxshape=(None, {SIDE}, {SIDE}), chunks=(1, {SIDE}, {SIDE}))
if swmr:
    f.swmr_mode = True
d.resize(first, axis=0); d[:] = a[:first]; d.flush(); f.flush()
print("ready", flush=True)
if pause:
    time.sleep(pause)
    d.resize(len(a), axis=0); d[first:] = a[first:]; d.flush()
    if not swmr:
        f.close()
sys.stdin.readline()
f.close()
"""


@contextmanager
def writer(path, *, swmr=True, first=N, pause_s=0.0):
    """A process that has the file open for writing, and writes the frames after the first ones after a pause."""
    words = [str(path), "swmr" if swmr else "alone", str(first), str(pause_s)]
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.communicate("\n")


@pytest.fixture
def link(tmp_path):
    """A closed file whose frames are a virtual dataset of the detector's file."""

    def make(rows, maxshape=None):
        path = tmp_path / "scan.h5"
        with h5py.File(path, "w") as file:
            layout = h5py.VirtualLayout((N, SIDE, SIDE), FRAMES.dtype, maxshape=maxshape)
            source = h5py.VirtualSource("detector.h5", "d", (N, SIDE, SIDE), maxshape=(None, SIDE, SIDE))
            layout[0:rows, :, :] = source[0:rows, :, :]
            file.create_virtual_dataset("d", layout)
        return path

    return make


def read(path, rows=N):
    file, frames = open_frames(path, lambda file: ("d",), lambda file: rows)
    with file:
        assert frames is not None
        frames.check_mask(None)
        return frames[0 : frames.shape[0]]


def test_a_file_written_by_swmr_is_read(tmp_path, link):
    scan = link(N)
    with h5py.File(tmp_path / "outer.h5", "w") as file:
        layout = h5py.VirtualLayout((N, SIDE, SIDE), FRAMES.dtype)
        layout[0:N] = h5py.VirtualSource(str(scan), "d", (N, SIDE, SIDE))[0:N]
        file.create_virtual_dataset("d", layout)
    with writer(tmp_path / "detector.h5"):
        for path in (tmp_path / "detector.h5", scan, tmp_path / "outer.h5"):
            assert_array_equal(read(path), FRAMES)


@pytest.mark.parametrize("how", ["direct", "linked", "linked without limit"])
def test_announced_frames_are_waited_for(tmp_path, link, how):
    path = tmp_path / "detector.h5"
    if how != "direct":
        path = link(N) if how == "linked" else link(h5py.h5s.UNLIMITED, maxshape=(None, SIDE, SIDE))
    with writer(tmp_path / "detector.h5", first=2, pause_s=0.3):
        assert_array_equal(read(path), FRAMES)


def test_a_file_that_is_not_written_by_swmr_is_waited_for(tmp_path):
    with writer(tmp_path / "detector.h5", swmr=False, first=2, pause_s=0.4):
        assert_array_equal(read(tmp_path / "detector.h5"), FRAMES)


@pytest.mark.parametrize("swmr", [True, False])
def test_the_patience_ends_with_what_came(tmp_path, link, monkeypatch, swmr):
    monkeypatch.setenv(PATIENCE_VARIABLE, "0.2")
    with writer(tmp_path / "detector.h5", swmr=swmr, first=2):
        found = f"2 of {N} frames" if swmr else r"detector\.h5"
        for path in (tmp_path / "detector.h5", link(N)):
            started = time.monotonic()
            with pytest.raises(FramesError, match=rf"{found}.*after 0\.2 s.*{PATIENCE_VARIABLE}"):
                read(path)
            assert time.monotonic() - started < 5


def test_the_patience_is_a_number(tmp_path, monkeypatch):
    monkeypatch.setenv(PATIENCE_VARIABLE, "long")
    with pytest.raises(FramesError, match="'long'"):
        read(tmp_path / "detector.h5")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_a_file_that_was_cut_is_not_taken_for_one_that_is_written(tmp_path, libver):
    path = tmp_path / "cut.h5"
    with h5py.File(path, "w", libver=libver) as file:
        file["d"] = FRAMES
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    with pytest.raises(FramesError, match="truncated file"):
        read(path)
