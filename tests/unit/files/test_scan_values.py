"""Values of an interchange file as other programs write them, and values that no scan can have."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_scan import hologram_scan

from bluesky_multislice.errors import FramesError, MultisliceError, ScanError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.measurement import Beam
from bluesky_multislice.recipe import ScanValues

SOURCE = "entry_1/instrument_1/source_1"
DETECTOR = "entry_1/instrument_1/detector_1"
SAMPLE = "entry_1/sample_1"


@pytest.fixture
def scan_file(tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan(angles=4))
    return tmp_path / "scan.cxi"


def put(path, name, value):
    with h5py.File(path, "r+") as file:
        if name in file:
            del file[name]
        file[name] = value


@pytest.mark.parametrize("name", [f"{SOURCE}/energy", f"{DETECTOR}/distance", f"{DETECTOR}/x_pixel_size"])
def test_one_number_may_stand_in_an_array_of_one(scan_file, name):
    before = read_scan(scan_file).geometry
    with h5py.File(scan_file) as file:
        value = file[name][()]
    put(scan_file, name, np.array([value]))
    after = read_scan(scan_file).geometry
    assert (after.beam, after.detector) == (before.beam, before.detector)
    np.testing.assert_array_equal(after.distance_m, before.distance_m)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (f"{SOURCE}/energy", 0.0, "energy must be positive"),
        (f"{SOURCE}/energy", np.nan, "energy must be positive"),
        (f"{SOURCE}/energy", "12 keV", "energy must be a number"),
        (f"{SOURCE}/energy", np.arange(1.0, 4.0), "single value of energy"),
        (f"{DETECTOR}/x_pixel_size", np.array([1.0, 2.0]), "single value of pixel size"),
        (f"{SOURCE}/focus_distance", np.ones(2), "one value of focus distance"),
        (f"{SOURCE}/source_size", np.array([1.0, 2.0]), "single value of source size"),
        (f"{SOURCE}/source_size", 1e-9, "blurred by the source size"),
        (f"{DETECTOR}/saturation_value", np.array([1.0, 2.0]), "single value of saturation"),
        (f"{DETECTOR}/basis_vectors", np.zeros((3, 2)), "along x and y"),
        (f"{DETECTOR}/basis_vectors", np.ones(4), "along x and y"),
        (f"{DETECTOR}/image_key", np.ones(4, int), "at least one view"),
        (f"{DETECTOR}/image_key", np.zeros(2, int), "one image_key.*2 values of image_key for 4 frames"),
        (f"{DETECTOR}/image_key", np.zeros(5, int), "one image_key"),
        (f"{DETECTOR}/image_key", np.array([0, 0, 7, 0]), "image_key must be 0.*7 in row 2"),
        (f"{SAMPLE}/geometry_1/translation", np.zeros(4), "translation"),
        (f"{SAMPLE}/rotation_angle", np.array([0, 1, np.nan, 3]), "angle must be a finite.*first is view 2"),
        (f"{DETECTOR}/distance", np.array([1, np.nan, 1, 1]), "distance must be a finite.*first is view 1"),
        (f"{SOURCE}/energy", np.array([1e-15, np.nan, 1e-15, 1e-15]), "energy.*no number in row 1"),
        (f"{SOURCE}/probe", np.ones(3), "probe"),
    ],
)
def test_a_value_that_no_scan_can_have_is_refused(scan_file, name, value, words):
    put(scan_file, name, value)
    with pytest.raises(ScanError, match=words):
        read_scan(scan_file)


def test_frames_that_are_no_array_are_refused(scan_file):
    put(scan_file, f"{DETECTOR}/data", "elsewhere")
    with pytest.raises(FramesError, match="needs frames"):
        read_scan(scan_file)


def test_a_file_that_was_cut_is_refused(scan_file):
    content = scan_file.read_bytes()
    scan_file.write_bytes(content[: len(content) // 2])
    with pytest.raises(MultisliceError):
        read_scan(scan_file).frames.read(np.arange(4))


def test_a_cone_beam_in_which_the_sample_moves_survives(tmp_path):
    scan = hologram_scan(angles=4)
    beam = Beam(scan.geometry.beam.wavelength_m, (1e-7, 2e-7, 1e-7, 2e-7), source_size_m=3e-9)
    write_scan(tmp_path / "cone.cxi", replace(scan, geometry=replace(scan.geometry, beam=beam)))
    found = read_scan(tmp_path / "cone.cxi")
    assert found.geometry.beam.focus_distance_m == pytest.approx(beam.focus_distance_m)
    assert found.geometry.beam.source_size_m == 3e-9
    still = replace(beam, focus_distance_m=(1e-7,) * 4)
    write_scan(tmp_path / "still.cxi", replace(scan, geometry=replace(scan.geometry, beam=still)))
    assert read_scan(tmp_path / "still.cxi").geometry.beam.focus_distance_m == 1e-7
    values = ScanValues(source_size_um=0.002)
    assert read_scan(tmp_path / "cone.cxi", values=values).geometry.beam.source_size_m == pytest.approx(2e-9)


def test_a_parallel_beam_that_diverges_survives(tmp_path):
    scan = hologram_scan(angles=4)
    beam = replace(scan.geometry.beam, divergence_rad=1e-6)
    write_scan(tmp_path / "scan.cxi", replace(scan, geometry=replace(scan.geometry, beam=beam)))
    assert read_scan(tmp_path / "scan.cxi").geometry.beam.divergence_rad == 1e-6
    values = ScanValues(divergence_urad=3)
    assert read_scan(tmp_path / "scan.cxi", values=values).geometry.beam.divergence_rad == pytest.approx(3e-6)
