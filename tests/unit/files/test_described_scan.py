"""Scans of TIFF and NumPy files with their description: read in place, in order, and refused by name."""

import re
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner
from numpy.testing import assert_allclose, assert_array_equal
from small_scan import hologram_scan

from bluesky_multislice.cli.commands import multislice
from bluesky_multislice.errors import FramesError, MultisliceError, ScanError
from bluesky_multislice.files import inspect_scan, linked_files, read_scan, write_scan
from bluesky_multislice.recipe import FrameProcessing, ScanValues

ANGLES = 12
KNOWN = """
[fields]
technique = {value = "holography"}
energy = {value = 0.5, unit = "nm"}
distance = {value = 30, unit = "nm"}
pixel_size = {value = [1e-3, 1e-3], unit = "um"}
"""
ANGLE = 'angle = {path = "angles.csv::theta", unit = "degree"}\n'


@pytest.fixture(scope="module")
def scan():
    return hologram_scan(angles=ANGLES)


@pytest.fixture
def counts(scan, tmp_path):
    """The frames as counts, and a table of angles in the folder."""
    lines = [f"{number};{15 * number}" for number in range(ANGLES)]
    (tmp_path / "angles.csv").write_text("# of the rotation stage\nnumber;theta\n" + "\n".join(lines))
    return np.round(1000 * scan.frames.read(np.arange(ANGLES))).astype(np.uint16)


def describe(folder, text, angle=ANGLE):
    (folder / "scan.toml").write_text(KNOWN + text + "\n" + angle)
    return folder / "scan.toml"


def write_series(folder, frames, name="f_%d.tif"):
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / (name % number), frame)


def write_imagej(path, frames):
    """One header for all frames, big-endian, as ImageJ writes a large stack."""
    tifffile.imwrite(path, frames, imagej=True, truncate=True)


def write_frame_by_frame(path, frames):
    with tifffile.TiffWriter(path) as file:
        for frame in frames:
            file.write(frame, compression="zlib")


LAYOUTS = {
    "f_%d.tif": lambda folder, frames: write_series(folder, frames),
    "f_*.tif": lambda folder, frames: write_series(folder, frames),
    "raw/*.tif": lambda folder, frames: ((folder / "raw").mkdir(), write_series(folder / "raw", frames)),
    "stack.tif": lambda folder, frames: tifffile.imwrite(folder / "stack.tif", frames),
    "ome.ome.tif": lambda folder, frames: tifffile.imwrite(folder / "ome.ome.tif", frames, byteorder=">"),
    "imagej.tif": lambda folder, frames: write_imagej(folder / "imagej.tif", frames),
    "pages.tif": lambda folder, frames: write_frame_by_frame(folder / "pages.tif", frames),
    "part_*.tiff": lambda folder, frames: write_series(folder, (frames[:5], frames[5:]), "part_%d.tiff"),
    "all.npy": lambda folder, frames: np.save(folder / "all.npy", frames),
    "all.npz::raw": lambda folder, frames: np.savez(folder / "all.npz", other=np.ones(3), raw=frames),
    "packed.npz::raw": lambda folder, frames: np.savez_compressed(folder / "packed.npz", raw=frames),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts_of_frames_are_read_in_order_and_staged(name, scan, counts, tmp_path):
    LAYOUTS[name](tmp_path, counts)
    found = read_scan(describe(tmp_path, f'frames = {{path = "{name}"}}'))
    views = np.array([11, 0, 5, 2])
    assert_array_equal(found.frames.read(views), counts[views])
    assert found.frames.source.dtype == np.uint16
    assert_allclose(found.geometry.angle_rad, scan.geometry.angle_rad, atol=1e-9)
    assert_allclose(found.geometry.distance_m, 30e-9)
    assert found.geometry.beam.wavelength_m == pytest.approx(0.5e-9)
    write_scan(tmp_path / "frames.h5", found, files=linked_files(found))
    assert_array_equal(read_scan(tmp_path / "frames.h5").frames.read(views), counts[views])


def test_darks_and_flats_of_their_own_correct_the_frames(counts, tmp_path):
    flat, dark = np.full(counts.shape[1:], 1200, np.uint16), np.full(counts.shape[1:], 100, np.uint16)
    flat[:, ::2] = 1400
    stored = np.round(counts / 1000 * (flat - 100.0) + 100).astype(np.uint16)
    write_series(tmp_path, stored)
    tifffile.imwrite(tmp_path / "flat_1.tif", flat)
    tifffile.imwrite(tmp_path / "flat_2.tif", flat)
    np.save(tmp_path / "dark.npy", dark)
    text = 'frames = {path = "f_%d.tif"}\nflats = {path = "flat_*.tif"}\ndarks = {path = "dark.npy"}'
    found = read_scan(describe(tmp_path, text))
    assert (found.frames.dark_rows, found.frames.flat_rows) == ((12,), (13, 14))
    assert_allclose(found.frames.read(np.arange(ANGLES)), counts / 1000, atol=1e-3)


def test_masks_regions_and_other_fields_count(counts, tmp_path):
    write_series(tmp_path, counts)
    mask = np.zeros(counts.shape[1:], np.uint8)
    mask[3, 4] = 1
    np.savez(tmp_path / "more.npz", bad=mask, places=np.stack([np.zeros(ANGLES), np.full(ANGLES, 2.0)], 1))
    text = 'frames = {path = "f_%d.tif"}\nmask = {path = "more.npz::bad"}\n'
    text += 'position_x = {path = "more.npz::places::1", unit = "nm"}\norientation = {value = "flip_y"}'
    path = describe(tmp_path, text)
    found = read_scan(path)
    assert np.argwhere(~found.frames.mask).tolist() == [[12, 4]]
    assert_allclose(found.geometry.position_m, np.tile([0, -2e-9], (ANGLES, 1)))
    assert "more.npz::places::1" in found.sources["position_x"]
    part = read_scan(path, values=ScanValues(energy_ev=5000), frames=FrameProcessing(region="2:10,2:10"))
    assert part.frames.shape == (8, 8)
    assert part.sources["energy"] == "recipe scan.energy_ev"


@pytest.mark.parametrize("combination", ["mean", "stack"])
def test_several_frames_per_angle_are_combined_as_declared(combination, counts, tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", np.repeat(counts, 2, axis=0))
    tifffile.imwrite(tmp_path / "flat.tif", np.full(counts.shape[1:], 1000, np.uint16))
    text = 'frames = {path = "stack.tif"}\nflats = {path = "flat.tif"}'
    path = describe(tmp_path, text)
    with pytest.raises(FramesError, match=r"24 frames of the sample and 12 values.*set frames_per_view"):
        read_scan(path)
    path.write_text(f'frames_per_view = "{combination}"\n' + path.read_text())
    found = read_scan(path)
    expected = counts if combination == "mean" else np.repeat(counts, 2, axis=0)
    assert_allclose(found.frames.read(np.arange(len(expected))), expected / 1000, rtol=1e-6)
    assert found.frames.saturation == 65535


def npz(folder, counts, **changed):
    values = {"technique": "holography", "frames": counts, "energy": 0.5, "energy_unit": "nm", "distance": 30.0}
    values |= {"distance_unit": "nm", "pixel_size": 1.0, "pixel_size_unit": "nm", "angle_unit": "degree"}
    values |= {"angle": 15.0 * np.arange(ANGLES), "flats": np.full((2, *counts.shape[1:]), 1000.0)}
    np.savez(folder / "scan.npz", **{key: value for key, value in (values | changed).items() if value is not None})
    return folder / "scan.npz"


def test_an_npz_has_the_names_of_the_fields_and_units_in_keys(scan, counts, tmp_path):
    found = read_scan(npz(tmp_path, counts))
    assert_allclose(found.frames.read(np.arange(ANGLES)), counts / 1000, rtol=1e-6)
    assert_allclose(found.geometry.angle_rad, scan.geometry.angle_rad, atol=1e-9)
    with pytest.raises(ScanError, match=r"number needs a unit.*energy"):
        read_scan(npz(tmp_path, counts, energy_unit=None))
    with pytest.raises(ScanError, match=r"needs distance.*fields.distance"):
        read_scan(npz(tmp_path, counts, distance=None))
    with pytest.raises(ScanError, match=r"scan.npz::angle: Object arrays"):
        read_scan(npz(tmp_path, counts, angle=np.array([None, 1], object)))


def test_a_damaged_frame_is_named_when_it_is_read_and_not_before(counts, tmp_path):
    for number, frame in enumerate(counts):
        tifffile.imwrite(tmp_path / f"f_{number}.tif", frame, compression="zlib")
    content = (tmp_path / "f_5.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "f_5.tif") as file:
        start = file.pages[0].dataoffsets[0]
    (tmp_path / "f_5.tif").write_bytes(content[:start] + bytes(20) + content[start + 20 :])
    found = read_scan(describe(tmp_path, 'frames = {path = "f_%d.tif"}'), frames=None)
    with pytest.raises(FramesError, match=r"view 5.*f_5\.tif"):
        found.frames.read(np.array([5]))
    found.frames.read(np.array([4, 6]))


def remove(name):
    return lambda folder, counts: (folder / name).unlink()


def put(name, values):
    return lambda folder, counts: tifffile.imwrite(folder / name, values)


REFUSED = {
    "a gap": (remove("f_3.tif"), "f_%d.tif", r"without 3"),
    "no file": (remove("f_3.tif"), "g_%d.tif", r"no file .*g_%d\.tif"),
    "no match": (remove("f_3.tif"), "g_*.tif", r"no file .*g_\*\.tif"),
    "too few": (remove("f_11.tif"), "f_%d.tif", r"11 frames of the sample and 12 values"),
    "another size": (put("f_7.tif", np.ones((8, 16), np.uint16)), "f_%d.tif", r"\(8, 16\).*f_7\.tif"),
    "another type": (put("f_7.tif", np.ones((16, 16), np.float32)), "f_*.tif", r"float32.*f_7\.tif"),
    "colours": (put("f_0.tif", np.ones((16, 16, 3), np.uint8)), "f_%d.tif", r"grey.*f_0\.tif"),
    "no TIFF": (lambda folder, counts: (folder / "f_2.tif").write_text("no"), "f_%d.tif", r"readable TIFF.*f_2\.tif"),
    "HDF5": (remove("f_3.tif"), "scan.h5", r"instrument file"),
    "no key": (lambda folder, counts: np.savez(folder / "a.npz", b=counts), "a.npz::c", r"a\.npz::c"),
    "an image": (lambda folder, counts: np.savez_compressed(folder / "a.npz", b=counts[0]), "a.npz::b", r"\(16, 16\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_frames_are_refused_by_name(case, counts, tmp_path):
    change, name, text = REFUSED[case]
    write_series(tmp_path, counts)
    change(tmp_path, counts)
    path = describe(tmp_path, f'frames = {{path = "{name}"}}')
    with pytest.raises(MultisliceError, match=text):
        read_scan(path)
    assert any(re.search(text, str(error)) for error in inspect_scan(path).errors)


def test_a_stack_that_is_cut_is_refused(counts, tmp_path):
    write_imagej(tmp_path / "stack.tif", counts)
    content = (tmp_path / "stack.tif").read_bytes()
    (tmp_path / "stack.tif").write_bytes(content[:-100])
    with pytest.raises(FramesError, match=r"stack\.tif"):
        read_scan(describe(tmp_path, 'frames = {path = "stack.tif"}'))


WRONG_VALUES = {
    'angle = {path = "gone.csv", unit = "degree"}': r"gone\.csv",
    'angle = {path = "angles.csv", unit = "degree"}': r"2 columns \(number, theta\)",
    'angle = {path = "angles.csv::phi", unit = "degree"}': r"no column phi; it has number, theta",
    'angle = {path = "angles.csv::theta"}': r"unit",
    'angle = {path = "angles.csv::theta", unit = "mm"}': r"unit that converts to radian",
    'angle = {value = [0, 1, 2], unit = "degree"}': r"12 frames of the sample and 3 values",
    'angles = {value = 0, unit = "degree"}': r"unknown fields angles",
    'angle = {unit = "degree"}': r"exactly one of path and value",
    'mask = {value = "mask.tif"}': r"needs a path",
    'darks = {path = "f_0.tif"}\nimage_key = {value = [0]}': r"image_key",
}


@pytest.mark.parametrize("line", WRONG_VALUES)
def test_wrong_descriptions_are_refused_by_name(line, counts, tmp_path):
    write_series(tmp_path, counts)
    with pytest.raises(MultisliceError, match=WRONG_VALUES[line]):
        read_scan(describe(tmp_path, 'frames = {path = "f_%d.tif"}', line))


def test_inspect_lists_all_that_is_missing_at_once(counts, tmp_path):
    write_series(tmp_path, counts)
    path = tmp_path / "scan.toml"
    path.write_text('[fields]\nframes = {path = "f_%d.tif"}\nenergy = {value = 3}')
    shown = CliRunner().invoke(multislice, ["inspect", str(path)])
    assert shown.exit_code == 1
    for part in ("12 of 16 x 16 pixels, uint16", "A scan needs technique", "A number needs a unit", "fields.distance"):
        assert part in shown.output


def test_the_document_shows_a_description_that_is_read(counts, tmp_path):
    page = Path(__file__).parents[3] / "docs" / "how-to" / "describe-a-scan.md"
    (tmp_path / "scan.toml").write_text(page.read_text().partition("```toml\n")[2].partition("```")[0])
    for name, value in (
        ("raw/tomo_%04d.tif", counts),
        ("flats/f%d.tif", counts[:2] + 1),
        ("dark%.0s.tif", [0 * counts[0]]),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_series(tmp_path, value, name)
    np.save(tmp_path / "mask.npy", np.zeros(counts.shape[1:], bool))
    (tmp_path / "angles.csv").write_text("theta\n" + "\n".join(map(str, range(ANGLES))))
    found = read_scan(tmp_path / "scan.toml")
    assert (found.geometry.views, len(found.frames.flat_rows), len(found.frames.dark_rows)) == (ANGLES, 2, 1)
