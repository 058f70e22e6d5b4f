"""A first look at a scan: what was found where, all that is missing, the plan, and a starter instrument file."""

import re
import shutil

import h5py
import numpy as np
import pytest
from command_line import multislice
from PIL import Image
from real_services import TILED_KEY
from small_scan import hologram_scan

from bluesky_multislice.files import inspect_scan, read_scan, write_scan
from bluesky_multislice.recipe import ScanValues, read_instrument
from bluesky_multislice.units import ELEMENTARY_CHARGE_C

DETECTOR, SOURCE = "entry_1/instrument_1/detector_1", "entry_1/instrument_1/source_1"
PLAN = ("--ranks", 1, "--device", "cpu", "--held-back-every", 0)


@pytest.fixture
def scan_file(tmp_path, hologram):
    write_scan(tmp_path / "scan.cxi", hologram)
    return tmp_path / "scan.cxi"


def inspect(status, *words):
    """Inspect, and return the text as one line of single spaces."""
    done = multislice("inspect", *words)
    assert done.returncode == status, done.stdout
    assert "Traceback" not in done.stdout
    return " ".join(done.stdout.split())


def blocks(text):
    """Name of each field that is missing or unusable → what is said about it."""
    found = re.findall(r"(?:MISSING|UNUSABLE) (\w+) rule: (.*?)(?= MISSING| UNUSABLE| cannot be|$)", text)
    return dict(found)


def test_a_complete_file_is_described_with_places_units_and_the_plan(scan_file, hologram, tmp_path):
    said = inspect(0, scan_file, *PLAN, "--picture", tmp_path / "look.png")
    assert f"energy 2.47968 keV /{SOURCE}/energy" in said
    assert f"distance 30 nm /{DETECTOR}/distance" in said
    assert f"pixel_size 1 nm /{DETECTOR}/y_pixel_size and /{DETECTOR}/x_pixel_size" in said
    assert "angle 0° to 157.5°, 8 values /entry_1/sample_1/rotation_angle" in said
    assert f"frames: 8 of 16 x 16 pixels, {hologram.frames.source.dtype}, /{DETECTOR}/data" in said
    assert "depth of field: 10.8 nm for object pixels of 1 nm; volume 16 nm thick, 1.5 depths of field" in said
    assert "plan: 1 rank(s) on cpu, volume (16, 16, 16) voxels (z, y, x) of 1 nm" in said
    assert said.count("plan: ") == 1
    assert "can be reconstructed" in said
    with Image.open(tmp_path / "look.png") as picture:
        shades = np.asarray(picture.convert("L"))
    mean = shades[30:380, 12:348]
    assert len(np.unique(mean)) > 20
    assert 5 < (shades[396:, 360:] < 100).sum()


def test_everything_that_is_missing_is_said_at_once_and_the_starter_file_mends_it(scan_file, tmp_path):
    expected = read_scan(scan_file).geometry
    with h5py.File(scan_file, "r+") as file:
        file["facility/mono/energy_rbv"] = file[f"{SOURCE}/energy"][()] / ELEMENTARY_CHARGE_C / 1e3
        file["facility/det_z"] = 30.0
        file["facility/mono/energy_rbv"].attrs["units"], file["facility/det_z"].attrs["units"] = "keV", "nm"
        del file[f"{SOURCE}/energy"], file[f"{DETECTOR}/distance"], file[f"{DETECTOR}/x_pixel_size"]
        file[f"{DETECTOR}/x_pixel_size"] = 1.0
        file[f"{DETECTOR}/x_pixel_size"].attrs["units"] = "furlong"
    starter = tmp_path / "starter.toml"
    said = inspect(1, scan_file, "--write-instrument", starter)
    told = blocks(said)
    assert set(told) == {"energy", "distance", "pixel_size"}
    assert "no energy in" in told["energy"]
    assert f"/{SOURCE}/energy" in told["energy"]
    assert "--energy-ev" in told["energy"]
    assert 'path = "/facility/mono/energy_rbv", unit = "keV"' in told["energy"]
    assert 'path = "/facility/det_z", unit = "nm"' in told["distance"]
    assert "furlong" in told["pixel_size"]
    assert "cannot be reconstructed: 3 to correct" in said
    assert set(read_instrument(starter).fields) >= {"angle", "frames", "regime", "technique"}

    text = starter.read_text()
    for name in ("energy", "distance"):
        block = re.search(rf"# \[fields\.{name}\]\n# path = .*\n# unit = .*\n", text)[0]
        text = text.replace(block, block.replace("# ", ""))
    starter.write_text(text)
    said = inspect(0, scan_file, "--instrument", starter, "--pixel-size-um", 1e-3, *PLAN)
    assert "instrument file my beamline: /facility/det_z" in said
    found = read_scan(scan_file, values=ScanValues(pixel_size_um=1e-3), instrument=read_instrument(starter)).geometry
    np.testing.assert_allclose(found.distance_m, expected.distance_m)
    assert found.beam.wavelength_m == pytest.approx(expected.beam.wavelength_m)
    assert "must be a new, writable file" in inspect(1, scan_file, "--write-instrument", starter)
    assert starter.read_text() == text


def test_an_nxtomo_with_darks_flats_and_an_unusable_frame(tmp_path):
    levels = np.array([2.0, 2.0, 1002.0])[:, None, None] * np.ones((3, 16, 16))
    frames = np.concatenate([levels, 1000 * hologram_scan(angles=6).frames.read(np.arange(6)) + 2])
    with h5py.File(tmp_path / "tomo.nxs", "w") as file:
        entry = file.create_group("entry")
        entry.attrs["NX_class"], entry["definition"] = "NXentry", "NXtomo"
        detector = entry.create_group("instrument/detector")
        detector["data"], detector["image_key"] = frames, [2, 2, 1] + [0] * 6
        for name, value in (("distance", 10.0), ("x_pixel_size", 1e-3), ("y_pixel_size", 1e-3)):
            detector[name] = value
            detector[name].attrs["units"] = "mm"
        entry["instrument/beam/incident_energy"] = 10.0
        entry["sample/rotation_angle"] = np.r_[0, 0, 0, np.arange(6) * 30.0]
    shutil.copy(tmp_path / "tomo.nxs", tmp_path / "damaged.nxs")
    said = inspect(0, tmp_path / "tomo.nxs", *PLAN)
    assert "technique holography implied by NXtomo" in said
    assert "energy 10 keV /entry/instrument/beam/incident_energy" in said
    assert "6 of the sample, 2 darks, 1 flats" in said
    assert "angles: 6, 0° to 150°" in said
    assert "not recorded, assumed: orientation as_is" in said
    with h5py.File(tmp_path / "damaged.nxs", "r+") as file:
        file["entry/instrument/detector/data"][4, 3, 3] = np.inf
    said = inspect(1, tmp_path / "damaged.nxs", *PLAN)
    assert "1 NaN or infinite pixels in view 1" in said


def test_an_image_key_that_does_not_fit_leaves_the_orientation(scan_file):
    with h5py.File(scan_file, "r+") as file:
        file[DETECTOR].pop("basis_vectors", None)
        file[f"{DETECTOR}/basis_vectors"] = [[-1.0, 0, 0], [0, 1.0, 0]]
    orientation = read_scan(scan_file).frames.orientation
    assert orientation != "as_is"
    with h5py.File(scan_file, "r+") as file:
        file[f"{DETECTOR}/image_key"] = np.zeros(5, int)
    assert set(blocks(inspect(1, scan_file, *PLAN))) == {"image_key"}
    assert inspect_scan(scan_file).frames.orientation == orientation


def test_a_run_is_inspected_by_its_uid(take, tiled_server, tmp_path, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", TILED_KEY)
    monkeypatch.setenv("MULTISLICE_TILED_URI", tiled_server.uri.partition("?")[0])
    recipe = {"recipe": {"scan": {"energy_ev": 2500.0}}}
    starter = tmp_path / "starter.toml"
    said = inspect(0, take(energy_ev=None, multislice=recipe), *PLAN, "--write-instrument", starter)
    assert "energy 2.5 keV recipe scan.energy_ev" in said
    assert "distance 30 nm start:detector_distance_m" in said
    assert "8 values primary:rotation_angle" in said
    assert "volume (16, 16, 16) voxels" in said
    fields = read_instrument(starter).fields
    assert (fields["angle"].path, fields["angle"].unit) == ("primary:rotation_angle", "deg")
    assert (fields["energy"].value, fields["energy"].unit) == (2500.0, "eV")
    assert fields["frames"].path.startswith("primary:")

    uid = take(energy_ev=None, detector_distance_m=None, optics={"mono_energy": 2.5, "detector_z": 30})
    told = blocks(inspect(1, uid))
    assert set(told) == {"energy", "distance"}
    assert 'path = "start:optics.mono_energy", unit = "eV"' in told["energy"]
    assert 'path = "start:optics.detector_z", unit = "m"' in told["distance"]


def test_what_is_neither_a_file_nor_a_run_of_a_catalogue(monkeypatch, tmp_path):
    monkeypatch.delenv("MULTISLICE_TILED_URI", raising=False)
    assert "--tiled ADDRESS" in inspect(1, "abcdef")
    assert "does not exist" in inspect(1, tmp_path / "gone.cxi")
