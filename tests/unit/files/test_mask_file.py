"""Masks: their sense, and files of their own."""

import h5py
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from small_scan import hologram_geometry

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import read_scan, recipe_mask, write_scan
from bluesky_multislice.measurement import Frames, Scan, good_pixels
from bluesky_multislice.recipe import ScanValues

BAD = np.zeros((4, 6), bool)
BAD[1, 2] = BAD[3, 5] = True
DETECTOR = "entry_1/instrument_1/detector_1"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int32, np.uint32, np.float32])
def test_zero_means_good_unless_declared(dtype):
    assert_array_equal(good_pixels(BAD.astype(dtype), origin="here"), ~BAD)
    assert_array_equal(good_pixels((~BAD).astype(dtype), origin="here", sense="good_is_one"), ~BAD)
    assert_array_equal(good_pixels(256 * BAD.astype(np.uint32), origin="here", sense="good_is_zero"), ~BAD)


@pytest.mark.parametrize("dtype", [bool, np.uint8])
def test_a_mask_of_nearly_everything_is_refused_unless_declared(dtype):
    inverted = (~BAD).astype(dtype)
    with pytest.raises(FramesError, match=r"mask.*from here that excludes 92%.*mask_sense"):
        good_pixels(inverted, origin="here")
    assert_array_equal(good_pixels(inverted, origin="here", sense="good_is_zero"), BAD)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 6), ()])
def test_a_mask_has_the_axes_of_a_frame(shape):
    with pytest.raises(FramesError, match=r"\(y, x\)"):
        good_pixels(np.zeros(shape), origin="here")
    assert good_pixels(np.zeros((1, 4, 6)), origin="here").shape == (4, 6)


def edf(values, name, order="LowByteFirst"):
    header = (
        f"{{\nByteOrder = {order} ;\nDataType = {name} ;\nDim_1 = {values.shape[1]} ;\nDim_2 = {values.shape[0]} ;\n"
    )
    return header.ljust(510).encode() + b"}\n" + values.tobytes()


def write(folder, kind):
    values = BAD.astype(np.uint8)
    path = folder / f"mask.{kind.partition('-')[0]}"
    if kind == "npy":
        np.save(path, BAD)
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["a/mask"] = BAD
        return f"{path}::/a/mask"
    elif kind == "edf":
        path.write_bytes(edf(values, "UnsignedByte"))
    elif kind == "edf-big":
        path.write_bytes(edf(values.astype(">i4"), "SignedInteger", "HighByteFirst"))
    else:
        Image.fromarray(values).save(path)
    return str(path)


@pytest.mark.parametrize("kind", ["npy", "tif", "tiff", "png", "edf", "edf-big", "h5"])
def test_formats(tmp_path, kind):
    path, sources = write(tmp_path, kind), {}
    assert_array_equal(recipe_mask(ScanValues(mask=path), sources), ~BAD)
    assert sources == {"mask": f"recipe scan.mask: {path}"}


def test_no_mask_file():
    assert recipe_mask(ScanValues(), {}) is None


@pytest.mark.parametrize("name", ["gone.npy", "gone.h5::/mask", "text.tif", "text.edf", "text.npy", "mask.xyz", "mask"])
def test_a_file_that_is_no_mask_is_named(tmp_path, name):
    if "gone" not in name:
        (tmp_path / name).write_text("no mask")
    with pytest.raises(FramesError, match=name.partition("::")[0]):
        recipe_mask(ScanValues(mask=str(tmp_path / name)), {})


@pytest.fixture
def scan_file(tmp_path):
    geometry = hologram_geometry(n=8, angles=4)
    stored = np.random.default_rng(1).poisson(1000, (4, 8, 8)).astype(np.uint32)
    stored[:, :, 3] = 2**32 - 1
    write_scan(tmp_path / "scan.cxi", Scan(geometry, Frames(stored)))
    with h5py.File(tmp_path / "scan.cxi", "r+") as file:
        del file[f"{DETECTOR}/mask"]
    return tmp_path / "scan.cxi"


def test_gaps_are_found_once_and_travel_into_the_job_folder(tmp_path, scan_file):
    scan = read_scan(scan_file)
    assert not scan.frames.mask[:, 3].any()
    assert scan.frames.mask.sum() == 56
    assert any("4294967295" in warning for warning in scan.warnings)
    write_scan(tmp_path / "job.h5", scan)
    again = read_scan(tmp_path / "job.h5")
    assert_array_equal(again.frames.mask, scan.frames.mask)
    assert again.warnings == ()


def test_the_recipes_mask_replaces_the_files(tmp_path, scan_file):
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/mask"] = np.eye(8, dtype=bool)
    np.save(tmp_path / "good.npy", np.arange(64).reshape(8, 8) > 7)
    values = ScanValues(mask=str(tmp_path / "good.npy"), mask_sense="good_is_one")
    scan = read_scan(scan_file, values=values)
    assert scan.frames.mask.sum() == 49
    assert "good.npy" in scan.sources["mask"]


def test_a_declared_mask_of_nearly_everything_travels_into_the_job_folder(tmp_path, scan_file):
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/mask"] = np.arange(64).reshape(8, 8) > 7
    with pytest.raises(FramesError, match="mask_sense"):
        read_scan(scan_file)
    write_scan(tmp_path / "job.h5", read_scan(scan_file, values=ScanValues(mask_sense="good_is_zero")))
    assert read_scan(tmp_path / "job.h5").frames.mask.sum() == 7
