"""The interchange file: what is written is read back, and what is missing is named."""

from typing import get_args

import h5py
import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files import FrameFile, frame_files, linked_files, read_geometry, read_scan, write_scan
from bluesky_multislice.measurement import Beam, Detector, Frames, Orientation, Scan, ScanGeometry
from bluesky_multislice.recipe import Instrument, ScanValues

ENERGY = "entry_1/instrument_1/source_1/energy"
DETECTOR = "entry_1/instrument_1/detector_1"
ANGLE = "entry_1/sample_1/rotation_angle"
TRANSLATION = "entry_1/sample_1/geometry_1/translation"


def ptychography(orientation="as_is", shape=(6, 4), views=5):
    random = np.random.default_rng(3)
    stored = random.integers(0, 1000, (views, *shape), dtype=np.uint16)
    mask = np.ones(shape, bool)
    mask[1, 2] = False
    frames = Frames(stored, mask=mask, orientation=orientation, saturation=5000)
    geometry = ScanGeometry(
        technique="ptychography",
        beam=Beam(1e-10, focus_distance_m=1e-3),
        detector=Detector(frames.shape, (50e-6, 60e-6), "far_field"),
        distance_m=np.full(views, 2.0),
        angle_rad=np.linspace(0, 1, views),
        position_m=random.normal(size=(views, 2)) * 1e-6,
    )
    probe = (random.normal(size=(2, *frames.shape)) + 1j).astype(np.complex64)
    return Scan(geometry, frames, probe)


@pytest.fixture
def scan_file(tmp_path):
    write_scan(tmp_path / "scan.cxi", ptychography())
    return tmp_path / "scan.cxi"


def drop(path, *names):
    with h5py.File(path, "r+") as file:
        for name in names:
            del file[name]


@pytest.mark.parametrize("orientation", get_args(Orientation))
def test_what_is_written_is_read_back(tmp_path, orientation):
    scan = ptychography(orientation)
    write_scan(tmp_path / "scan.cxi", scan)
    read = read_scan(tmp_path / "scan.cxi")
    views = np.arange(scan.geometry.views)
    np.testing.assert_array_equal(read.frames.read(views), scan.frames.read(views))
    np.testing.assert_array_equal(read.frames.mask, scan.frames.mask)
    np.testing.assert_array_equal(read.probe, scan.probe)
    assert read.frames.saturation == 5000
    assert read.geometry.technique == "ptychography"
    assert read.geometry.detector == scan.geometry.detector
    assert read.geometry.beam.focus_distance_m == scan.geometry.beam.focus_distance_m
    assert read.geometry.beam.wavelength_m == pytest.approx(scan.geometry.beam.wavelength_m, rel=1e-12)
    for name in ("distance_m", "angle_rad", "position_m"):
        np.testing.assert_allclose(getattr(read.geometry, name), getattr(scan.geometry, name), rtol=1e-12)


def test_translation_is_the_samples_so_the_probe_moves_the_other_way(scan_file):
    with h5py.File(scan_file) as file:
        translation = file[TRANSLATION][()]
    np.testing.assert_allclose(read_scan(scan_file).geometry.position_m, -translation[:, [1, 0]])


def test_frames_are_linked_where_they_lie(tmp_path, scan_file):
    scan = read_scan(scan_file)
    write_scan(tmp_path / "job.h5", scan, files=[FrameFile(scan_file, f"{DETECTOR}/data", 5)])
    linked = read_scan(tmp_path / "job.h5")
    np.testing.assert_array_equal(linked.frames.read(np.arange(5)), scan.frames.read(np.arange(5)))
    assert (tmp_path / "job.h5").stat().st_size < 50_000
    assert frame_files(tmp_path / "job.h5") == [scan_file.resolve()]
    assert frame_files(scan_file) == [scan_file]


def test_linked_frames_whose_file_has_gone_are_refused_not_read_as_zeros(tmp_path, scan_file):
    write_scan(tmp_path / "job.h5", read_scan(scan_file), files=[FrameFile(scan_file, f"{DETECTOR}/data", 5)])
    scan_file.rename(tmp_path / "elsewhere.cxi")
    with pytest.raises(FramesError, match=r"scan\.cxi"):
        read_scan(tmp_path / "job.h5")


def test_linked_frames_whose_file_was_cut_are_refused(tmp_path, scan_file):
    write_scan(tmp_path / "job.h5", read_scan(scan_file), files=[FrameFile(scan_file, f"{DETECTOR}/data", 5)])
    with h5py.File(scan_file, "r+") as file:
        kept = file[f"{DETECTOR}/data"][:3]
        del file[f"{DETECTOR}/data"]
        file[f"{DETECTOR}/data"] = kept
    with pytest.raises(FramesError, match="every frame"):
        read_scan(tmp_path / "job.h5")


def test_darks_and_flats_are_told_by_their_image_key(tmp_path):
    geometry = hologram_geometry(n=4, angles=2)
    stored = np.stack([np.full((4, 4), level, np.uint16) for level in (10, 60, 10, 110)])
    frames = Frames(stored, rows=np.array([1, 3]), dark_rows=[0], flat_rows=[3])
    write_scan(tmp_path / "scan.cxi", Scan(geometry, frames))
    read = read_scan(tmp_path / "scan.cxi")
    assert read.geometry.views == 2
    np.testing.assert_allclose(read.frames.read(np.arange(2)).mean((1, 2)), [0.5, 1.0])


@pytest.mark.parametrize(
    ("missing", "field", "places", "option"),
    [
        (ENERGY, "energy", [f"/{ENERGY}", "scan.energy_ev", "instrument file"], "--energy-ev"),
        (f"{DETECTOR}/distance", "distance", [f"/{DETECTOR}/distance", "scan.distance_m"], "--distance-m"),
        (
            f"{DETECTOR}/x_pixel_size",
            "pixel size",
            [f"/{DETECTOR}/x_pixel_size", "scan.pixel_size_um"],
            "--pixel-size-um",
        ),
        (TRANSLATION, "position", [f"/{TRANSLATION}", "/entry_1/data_1/translation"], None),
    ],
)
def test_a_missing_value_is_named_with_every_place_looked_in(scan_file, missing, field, places, option):
    drop(scan_file, missing)
    with pytest.raises(ScanError) as caught:
        read_scan(scan_file)
    assert field in caught.value.rule
    assert all(place in caught.value.got for place in places)
    assert (f"({option})" in caught.value.remedy) if option else ("--" not in caught.value.remedy)


def test_recipe_overrules_file_and_instrument_fills_in(scan_file):
    drop(scan_file, f"{DETECTOR}/distance")
    instrument = Instrument.model_validate(
        {"name": "P25", "fields": {"distance": {"value": 1120, "unit": "mm"}, "energy": {"value": 9, "unit": "keV"}}}
    )
    scan = read_scan(scan_file, values=ScanValues(energy_ev=8000), instrument=instrument)
    assert scan.geometry.distance_m[0] == pytest.approx(1.12)
    assert scan.geometry.beam.wavelength_m == pytest.approx(1.239841984e-6 / 8000)
    assert scan.sources["energy"] == "recipe scan.energy_ev"
    assert scan.sources["distance"] == "instrument file P25"
    assert scan.sources["pixel_size"] == f"/{DETECTOR}/y_pixel_size and /{DETECTOR}/x_pixel_size"


def test_angle_of_the_recipe_holds_for_every_view(scan_file):
    scan = read_scan(scan_file, values=ScanValues(angle_deg=90))
    np.testing.assert_allclose(scan.geometry.angle_rad, np.pi / 2)


def test_what_is_implied_is_said(scan_file):
    drop(scan_file, "entry_1/technique", f"{DETECTOR}/regime", ANGLE)
    scan = read_scan(scan_file)
    assert (scan.geometry.technique, scan.geometry.detector.regime) == ("ptychography", "near_field")
    assert len(scan.warnings) == 2
    assert scan.sources["angle"].startswith("absent: 0")


def replace_frames(path, change):
    with h5py.File(path, "r+") as file:
        stored = change(file[f"{DETECTOR}/data"][()])
        del file[f"{DETECTOR}/data"]
        file[f"{DETECTOR}/data"] = stored


def test_frames_with_one_plane_are_frames(tmp_path, scan_file):
    whole = read_scan(scan_file).frames.read(np.arange(5))
    replace_frames(scan_file, lambda stored: stored[:, None])
    scan = read_scan(scan_file)
    np.testing.assert_array_equal(scan.frames.read(np.arange(5)), whole)
    write_scan(tmp_path / "job.h5", scan, files=linked_files(scan))
    np.testing.assert_array_equal(read_scan(tmp_path / "job.h5").frames.read(np.arange(5)), whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda stored: np.repeat(stored[:, None], 3, axis=1), "15 frames for 5 views"),
        (lambda stored: np.repeat(stored, 5, axis=0), "25 frames and 5 values"),
        (lambda stored: stored.astype(np.complex64), "complex"),
    ],
)
def test_frames_that_do_not_pair_with_views_are_refused(scan_file, change, words):
    replace_frames(scan_file, change)
    with pytest.raises((FramesError, ScanError), match=words):
        read_scan(scan_file)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize(("combination", "factor"), [("mean", 1), ("sum", 3)])
def test_several_frames_per_view_are_combined_as_declared(tmp_path, scan_file, stacked, combination, factor):
    whole = read_scan(scan_file).frames.read(np.arange(5))
    steps = np.array([0, 1, 2], np.uint16)[:, None, None]
    replace_frames(scan_file, lambda stored: stored[:, None] + steps)
    if not stacked:
        replace_frames(scan_file, lambda stored: stored.reshape(-1, *stored.shape[2:]))
    scan = read_scan(scan_file, values=ScanValues(frames_per_view=combination))
    expected = np.where(scan.frames.mask, factor * (whole + 1), 0)
    np.testing.assert_allclose(scan.frames.read(np.arange(5)), expected)
    assert scan.frames.saturation == 5000 * factor
    write_scan(tmp_path / "job.h5", scan, files=linked_files(scan))
    np.testing.assert_allclose(read_scan(tmp_path / "job.h5").frames.read(np.arange(5)), expected)


@pytest.mark.parametrize("stacked", [True, False])
def test_each_frame_of_a_stack_is_a_view_at_its_position(tmp_path, scan_file, stacked):
    whole, position_m = read_scan(scan_file).frames.read(np.arange(5)), read_scan(scan_file).geometry.position_m
    replace_frames(scan_file, lambda stored: np.repeat(stored[:, None], 2, axis=1))
    if not stacked:
        replace_frames(scan_file, lambda stored: stored.reshape(-1, *stored.shape[2:]))
    scan = read_scan(scan_file, values=ScanValues(frames_per_view="stack"))
    write_scan(tmp_path / "job.h5", scan, files=linked_files(scan))
    for read in (scan, read_scan(tmp_path / "job.h5")):
        np.testing.assert_array_equal(read.frames.read(np.arange(10)), np.repeat(whole, 2, axis=0))
        np.testing.assert_array_equal(read.geometry.position_m, np.repeat(position_m, 2, axis=0))


def test_views_whose_frame_the_detector_dropped_are_left_out(tmp_path, scan_file):
    kept = np.array([0, 2, 4])
    whole, angle_rad = read_scan(scan_file).frames.read(kept), read_scan(scan_file).geometry.angle_rad
    replace_frames(scan_file, lambda stored: stored[kept])
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/frame_numbers"] = kept + 17
    scan = read_scan(scan_file)
    write_scan(tmp_path / "job.h5", scan, files=linked_files(scan))
    for read in (scan, read_scan(tmp_path / "job.h5")):
        np.testing.assert_array_equal(read.frames.read(np.arange(3)), whole)
        np.testing.assert_array_equal(read.geometry.angle_rad, angle_rad[kept])
    assert "2 of 5 events have no frame and are left out: 1, 3 (counted from 0)" in scan.warnings


def test_an_unknown_word_is_refused(scan_file):
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/regime"][()] = "middle_field"
    with pytest.raises(ScanError, match="middle_field"):
        read_scan(scan_file)


def test_a_detector_across_no_axis_is_refused(scan_file):
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/basis_vectors"][...] = [[0, 1], [1, 1], [0, 0]]
    with pytest.raises(ScanError, match="along x and y"):
        read_scan(scan_file)


def test_fewer_frames_than_views_are_refused(scan_file):
    with h5py.File(scan_file, "r+") as file:
        kept = file[f"{DETECTOR}/data"][:3]
        del file[f"{DETECTOR}/data"]
        file[f"{DETECTOR}/data"] = kept
    with pytest.raises(ScanError, match="3 frames and 5 values"):
        read_scan(scan_file)


def test_a_file_that_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "scan.cxi").write_text("not HDF5")
    with pytest.raises(FramesError, match=r"one of the formats.*CXI"):
        read_scan(tmp_path / "scan.cxi")


def test_a_scan_without_frames_is_for_simulation_only(scan_file):
    drop(scan_file, f"{DETECTOR}/data")
    with pytest.raises(FramesError, match="multislice simulate"):
        read_scan(scan_file)
    described = read_geometry(scan_file)
    assert (described.geometry.views, described.geometry.detector.shape) == (5, (6, 4))


def test_without_a_mask_the_frame_to_simulate_has_no_shape(scan_file):
    drop(scan_file, f"{DETECTOR}/data", f"{DETECTOR}/mask")
    with pytest.raises(ScanError, match="mask"):
        read_geometry(scan_file)
