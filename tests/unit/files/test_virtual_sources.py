"""Virtual datasets: healthy ones are read, and what HDF5 would fill in silently is refused by name."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.stored_frames import open_frames

N, SIDE = 6, 8
FRAMES = np.random.default_rng(1).integers(1, 999, (N, SIDE, SIDE), np.uint16)
HALF = SIDE // 2
UNLIMITED = h5py.h5s.UNLIMITED


@pytest.fixture
def folder(tmp_path):
    with h5py.File(tmp_path / "detector.h5", "w") as file:
        file["d"] = FRAMES
        file["plane"] = FRAMES[:, None]
        file["modules"] = np.stack([FRAMES[:, :, :HALF], FRAMES[:, :, HALF:]], 1)
        file.create_dataset("grows", data=FRAMES, maxshape=(None, SIDE, SIDE), chunks=(1, SIDE, SIDE))
        for i in range(N):
            file[f"f{i}"] = FRAMES[i]
    return tmp_path


def source(name="detector.h5", dataset="d", shape=FRAMES.shape, **more):
    return h5py.VirtualSource(str(name), dataset, shape, **more)


def write(path, fill, shape=FRAMES.shape, **more):
    """Write a virtual dataset "v" that ``fill(layout)`` maps."""
    with h5py.File(path, "a", libver="latest") as file:
        layout = h5py.VirtualLayout(shape, FRAMES.dtype, **more)
        fill(layout)
        file.create_virtual_dataset("v", layout)
    return path


def read(path, rows=0, good=None):
    file, frames = open_frames(Path(path), lambda file: ("v",), lambda file: rows)
    with file:
        assert frames is not None
        frames.check_mask(good)
        return frames[0 : frames.shape[0]]


def whole(layout):
    layout[:] = source()


def sliced(layout):
    layout[0:N] = source()[0:N]


def frame_by_frame(layout):
    for i in range(N):
        layout[i] = source(dataset=f"f{i}", shape=(SIDE, SIDE))


def modules(layout):
    both = source(dataset="modules", shape=(N, 2, SIDE, HALF))
    layout[:, :, :HALF], layout[:, :, HALF:] = both[:, 0], both[:, 1]


def one_plane(layout):
    layout[:] = source(dataset="plane", shape=(N, 1, SIDE, SIDE))[:, 0]


def interleaved(layout):
    layout[0::2], layout[1::2] = source()[0::2], source()[1::2]


def irregular(layout):
    layout[[0, 1, 3]] = source()[[0, 1, 3]]
    layout[[2, 4, 5]] = source()[[2, 4, 5]]


def interlaced_lines(layout):
    layout[:, 0::2], layout[:, 1::2] = source()[:, 0::2], source()[:, 1::2]


HEALTHY = (whole, sliced, frame_by_frame, modules, one_plane, interleaved, irregular, interlaced_lines)


@pytest.mark.parametrize("fill", HEALTHY)
def test_healthy_mappings_are_read(folder, fill):
    assert_array_equal(read(write(folder / "v.h5", fill)), FRAMES)


@pytest.mark.parametrize("fill", HEALTHY)
def test_a_source_that_is_gone_is_named(folder, fill):
    write(folder / "v.h5", fill)
    (folder / "detector.h5").unlink()
    with pytest.raises(FramesError, match=r"readable.*detector\.h5"):
        read(folder / "v.h5")


@pytest.mark.parametrize("fill", HEALTHY)
def test_a_source_without_its_dataset_is_named(folder, fill):
    write(folder / "v.h5", fill)
    with h5py.File(folder / "detector.h5", "w") as file:
        file["other"] = FRAMES
    with pytest.raises(FramesError, match=r"readable.*detector\.h5"):
        read(folder / "v.h5")


@pytest.mark.parametrize("fill", [whole, sliced, one_plane, interleaved, irregular, modules])
def test_a_source_that_was_cut_is_named(folder, fill):
    write(folder / "v.h5", fill)
    with h5py.File(folder / "detector.h5", "r+") as file:
        for name in ("d", "plane", "modules"):
            kept = file[name][: N - 1]
            del file[name]
            file[name] = kept
    with pytest.raises(FramesError, match=r"every frame.*detector\.h5"):
        read(folder / "v.h5")


def test_a_source_that_is_no_hdf5_file_is_named(folder):
    write(folder / "v.h5", sliced)
    (folder / "detector.h5").write_bytes(b"damaged")
    with pytest.raises(FramesError, match=r"readable.*detector\.h5"):
        read(folder / "v.h5")


def lost_frame(layout):
    layout[0:3], layout[4:N] = source()[0:3], source()[4:N]


def lost_column(layout):
    layout[:, :, : SIDE - 1] = source()[:, :, : SIDE - 1]


def lost_corner_of_a_frame(layout):
    layout[0:3] = source()[0:3]
    layout[3, 2:] = source()[3, 2:]
    layout[3, :2, 1:] = source()[3, :2, 1:]
    layout[4:N] = source()[4:N]


def nothing(layout):
    layout[0:0] = source()[0:0]


@pytest.mark.parametrize(
    ("fill", "pixels", "frame"),
    [(lost_frame, SIDE * SIDE, 3), (lost_column, SIDE, 0), (lost_corner_of_a_frame, 2, 3), (nothing, SIDE * SIDE, 0)],
)
def test_what_is_not_mapped_is_counted(folder, fill, pixels, frame):
    with pytest.raises(FramesError, match=rf"{pixels} of {SIDE * SIDE} pixels that are not mapped.*frame {frame} of"):
        read(write(folder / "v.h5", fill))


def test_a_gap_between_modules_may_be_masked(folder):
    good = np.ones((SIDE, SIDE), bool)
    good[:, -1] = False
    write(folder / "v.h5", lost_column)
    assert_array_equal(read(folder / "v.h5", good=good)[:, :, :-1], FRAMES[:, :, :-1])
    linked = write(folder / "job.h5", lambda layout: layout.__setitem__(slice(0, N), source("v.h5", "v")[0:N]))
    read(linked, good=good)
    with pytest.raises(FramesError, match=f"{SIDE} of {SIDE * SIDE} pixels"):
        read(linked)


def test_sources_in_the_same_file(folder):
    with h5py.File(folder / "v.h5", "w") as file:
        file["own"] = FRAMES
    assert_array_equal(read(write(folder / "v.h5", lambda v: v.__setitem__(slice(None), source(".", "own")))), FRAMES)


def test_virtual_datasets_of_virtual_datasets(folder):
    write(folder / "inner.h5", modules)
    write(folder / "v.h5", lambda v: v.__setitem__(slice(0, N), source("inner.h5", "v")[0:N]))
    assert_array_equal(read(folder / "v.h5"), FRAMES)
    (folder / "detector.h5").rename(folder / "elsewhere.h5")
    with pytest.raises(FramesError, match=r"detector\.h5"):
        read(folder / "v.h5")


def test_a_virtual_dataset_of_itself_is_refused(folder):
    write(folder / "v.h5", lambda v: v.__setitem__(slice(0, N), source(".", "v")[0:N]))
    with pytest.raises(FramesError, match="links to itself"):
        read(folder / "v.h5")


def test_a_subfolder_and_the_working_folder(folder, monkeypatch):
    (folder / "raw").mkdir()
    (folder / "detector.h5").rename(folder / "raw" / "detector.h5")
    write(folder / "v.h5", lambda v: v.__setitem__(slice(None), source("raw/detector.h5")))
    assert_array_equal(read(folder / "v.h5"), FRAMES)
    (folder / "other").mkdir()
    (folder / "v.h5").rename(folder / "other" / "v.h5")
    monkeypatch.chdir(folder)
    assert_array_equal(read("other/v.h5"), FRAMES)


def test_an_absolute_name_is_also_searched_beside_the_file(folder):
    write(folder / "v.h5", lambda v: v.__setitem__(slice(None), source("/nowhere/detector.h5")))
    assert_array_equal(read(folder / "v.h5"), FRAMES)


def printf(path, rows=2, name=b"block_%b.h5", dataset=b"d", extent=N):
    """Write a virtual dataset whose blocks of frames are in files with a number."""
    with h5py.File(path, "w", libver="latest") as file:
        target = h5py.h5s.create_simple((extent, SIDE, SIDE), (UNLIMITED, SIDE, SIDE))
        target.select_hyperslab((0, 0, 0), (UNLIMITED, 1, 1), (rows, 1, 1), (rows, SIDE, SIDE))
        made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        made.set_layout(h5py.h5d.VIRTUAL)
        made.set_virtual(target, name, dataset, h5py.h5s.create_simple((rows, SIDE, SIDE)))
        h5py.h5d.create(file.id, b"v", h5py.h5t.NATIVE_UINT16, target, made)
    return path


@pytest.fixture
def blocks(folder):
    for i in range(3):
        with h5py.File(folder / f"block_{i}.h5", "w") as file:
            file["d"] = file["d100%_0"] = FRAMES[2 * i : 2 * i + 2]
    return folder


def test_numbered_files_are_read(blocks):
    assert_array_equal(read(printf(blocks / "v.h5"), rows=N), FRAMES)
    assert_array_equal(read(printf(blocks / "v.h5", dataset=b"d100%%_0"), rows=N), FRAMES)


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_numbered_file_that_is_gone_is_named(blocks, lost):
    printf(blocks / "v.h5")
    (blocks / f"block_{lost}.h5").unlink()
    with pytest.raises(FramesError, match=rf"block_{lost}\.h5"):
        read(blocks / "v.h5", rows=N)


def test_a_numbered_file_that_was_cut_is_named(blocks):
    printf(blocks / "v.h5")
    with h5py.File(blocks / "block_1.h5", "w") as file:
        file["d"] = FRAMES[:1]
    with pytest.raises(FramesError, match=r"every frame.*block_1\.h5"):
        read(blocks / "v.h5", rows=N)


def unlimited(layout):
    growing = source(dataset="grows", maxshape=(None, SIDE, SIDE))
    layout[0:UNLIMITED, :, :] = growing[0:UNLIMITED, :, :]


def test_a_source_of_unlimited_length_is_read_up_to_its_end(folder):
    write(folder / "v.h5", unlimited, maxshape=(None, SIDE, SIDE))
    assert_array_equal(read(folder / "v.h5", rows=N), FRAMES)
    with pytest.raises(FramesError, match=f"frame {N} of"):
        read(folder / "v.h5", rows=N + 2)


def test_unlimited_modules_of_different_length_are_refused(folder):
    with h5py.File(folder / "detector.h5", "r+") as file:
        for name, rows in (("left", N), ("right", N - 2)):
            part = FRAMES[:rows, :, :HALF]
            file.create_dataset(name, data=part, maxshape=(None, SIDE, HALF), chunks=(1, SIDE, HALF))

    def side_by_side(layout):
        for name, columns in (("left", slice(0, HALF)), ("right", slice(HALF, SIDE))):
            module = source(dataset=name, shape=(N, SIDE, HALF), maxshape=(None, SIDE, HALF))
            layout[0:UNLIMITED, :, columns] = module[0:UNLIMITED, :, :]

    write(folder / "v.h5", side_by_side, maxshape=(None, SIDE, SIDE))
    with pytest.raises(FramesError, match=rf"{SIDE * HALF} of {SIDE * SIDE} pixels.*frame {N - 2} of"):
        read(folder / "v.h5", rows=N)


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """An HDF5 file beside whose place the raw bytes of its frames are, under a relative name."""
    monkeypatch.chdir(tmp_path)
    with h5py.File("v.h5", "w") as file:
        file.create_dataset("v", data=FRAMES, external=[("raw.bin", 0, FRAMES.nbytes)])
    (tmp_path / "elsewhere").mkdir()
    return tmp_path


def test_raw_files_are_found_from_any_working_folder(raw, monkeypatch):
    assert_array_equal(read("v.h5"), FRAMES)
    monkeypatch.chdir(raw / "elsewhere")
    assert_array_equal(read(raw / "v.h5"), FRAMES)


def test_raw_files_that_are_cut_or_gone_are_named(raw):
    os.truncate(raw / "raw.bin", 100)
    with pytest.raises(FramesError, match=r"raw\.bin.*100 bytes"):
        read(raw / "v.h5")
    (raw / "raw.bin").unlink()
    with pytest.raises(FramesError, match=r"raw\.bin.*missing"):
        read(raw / "v.h5")


def test_a_virtual_dataset_of_raw_files(raw):
    write("w.h5", lambda v: v.__setitem__(slice(None), source("v.h5", "v")))
    assert_array_equal(read("w.h5"), FRAMES)
    os.truncate(raw / "raw.bin", 100)
    with pytest.raises(FramesError, match=r"raw\.bin"):
        read("w.h5")
