"""Scans as facilities write them: units, shapes, other places, other names of groups, NXtomo."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import read_scan
from bluesky_multislice.recipe import Instrument, ScanValues
from bluesky_multislice.units import ELEMENTARY_CHARGE_C, energy_ev_from_wavelength

N, SIDE = 16, 8
DETECTOR, SAMPLE = "entry_1/instrument_1/detector_1", "entry_1/sample_1"
ENERGY, DISTANCE = "entry_1/instrument_1/source_1/energy", f"{DETECTOR}/distance"
ANGLE, TRANSLATION = f"{SAMPLE}/rotation_angle", f"{SAMPLE}/geometry_1/translation"
JOULE = 1e4 * ELEMENTARY_CHARGE_C
WAVELENGTH_M = 1.239841984e-10
FRAMES = np.random.default_rng(0).poisson(100, (N, SIDE, SIDE)).astype(np.uint16)
Y, X = (axis.ravel() * 2e-7 for axis in np.indices((4, 4)))
CXI = {
    "entry_1/technique": "ptychography",
    ENERGY: JOULE,
    f"{DETECTOR}/data": FRAMES,
    DISTANCE: 1.0,
    f"{DETECTOR}/x_pixel_size": 55e-6,
    f"{DETECTOR}/y_pixel_size": 55e-6,
    f"{DETECTOR}/regime": "far_field",
    TRANSLATION: np.stack([X, Y, 0 * X], 1),
    ANGLE: np.full(N, 30.0),
}


@dataclass
class WithUnits:
    value: object
    units: object


def write(path, values):
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            if isinstance(value, WithUnits):
                file[name] = value.value
                file[name].attrs["units"] = value.units
            elif value is not None:
                file[name] = value
    return path


@pytest.fixture
def scan(tmp_path):
    """Returns the scan of a CXI file with some values replaced; None leaves one out."""

    def make(replaced=None, **options):
        number = len(list(tmp_path.iterdir()))
        return read_scan(write(tmp_path / f"scan{number}.cxi", CXI | (replaced or {})), **options)

    return make


def check_clean(found):
    """The scan is the one in ``CXI``."""
    geometry = found.geometry
    assert (geometry.technique, geometry.detector.regime, geometry.detector.shape) == (
        "ptychography",
        "far_field",
        (SIDE, SIDE),
    )
    assert geometry.beam.wavelength_m == pytest.approx(WAVELENGTH_M)
    assert geometry.detector.pixel_size_m == pytest.approx((55e-6, 55e-6))
    np.testing.assert_allclose(geometry.distance_m, np.ones(N))
    np.testing.assert_allclose(np.degrees(geometry.angle_rad), np.full(N, 30.0), atol=1e-4)
    assert len(np.unique(geometry.angle_rad)) == len(np.unique(geometry.distance_m)) == 1
    np.testing.assert_allclose(geometry.position_m, np.stack([-Y, -X], 1))
    np.testing.assert_array_equal(found.frames.read(np.arange(N)), FRAMES)


@pytest.mark.parametrize(
    ("name", "value", "units"),
    [
        (DISTANCE, 1000.0, "mm"),
        (DISTANCE, 1.0, "m"),
        (DISTANCE, 1.0, "meters"),
        (DISTANCE, 1.0, ""),
        (DISTANCE, 1e6, b"um"),
        (DISTANCE, 1e6, "µm"),
        (DISTANCE, 1e6, "μm"),
        (DISTANCE, 1e6, np.array(["micron"], object)),
        (DISTANCE, 1e10, "Angstrom"),
        (DISTANCE, np.full(N, 100.0), "cm"),
        (ENERGY, 10.0, "keV"),
        (ENERGY, 10.0, "KEV"),
        (ENERGY, 1e4, "eV"),
        (ENERGY, JOULE, "J"),
        (ENERGY, JOULE, "joules"),
        (ANGLE, np.radians(30), "rad"),
        (ANGLE, 30e3, "mdeg"),
        (ANGLE, np.full(N, 30.0), "degrees"),
        (TRANSLATION, CXI[TRANSLATION] * 1e6, "microns"),
    ],
)
def test_units_are_converted(scan, name, value, units):
    check_clean(scan({name: WithUnits(value, units)}))


@pytest.mark.parametrize(
    ("name", "units", "field"),
    [
        (DISTANCE, "furlong", "distance"),
        (DISTANCE, "keV", "distance"),
        (DISTANCE, "deg", "distance"),
        (DISTANCE, "2 mm", "distance"),
        (ENERGY, "m", "energy"),
        (ENERGY, "W", "energy"),
        (ANGLE, "mm", "angle"),
        (ANGLE, "dimensionless", "angle"),
        (TRANSLATION, "s", "position [xy]"),
        (f"{DETECTOR}/x_pixel_size", "pixels", "pixel size"),
    ],
)
def test_units_that_contradict_the_field_are_refused(scan, name, units, field):
    with pytest.raises(ScanError, match=f"must have a unit.*{field} from /{name} with the units '{units}'"):
        scan({name: WithUnits(CXI[name], units)})


def structured(value):
    record = np.zeros(1, [("value", "f8")])
    record["value"] = value
    return record


def characters(word):
    """A word as MATLAB stores it."""
    return np.array([[ord(letter) for letter in word]], np.uint16)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (N,), (N, 1)])
def test_numbers_in_arrays(scan, shape):
    names = (ENERGY, DISTANCE, ANGLE, f"{DETECTOR}/x_pixel_size", f"{DETECTOR}/y_pixel_size")
    check_clean(scan({name: np.full(shape, np.ravel(CXI[name])[0]) for name in names}))


def test_numbers_in_structured_arrays(scan):
    check_clean(scan({name: structured(CXI[name]) for name in (ENERGY, DISTANCE, f"{DETECTOR}/x_pixel_size")}))


@pytest.mark.parametrize(
    "form",
    [
        np.bytes_,
        lambda word: [word],
        lambda word: np.array([[word]], h5py.string_dtype()),
        lambda word: np.array([word] * N, "S"),
        characters,
        lambda word: characters(word).T,
    ],
)
def test_words_in_other_forms(scan, form):
    check_clean(scan({name: form(CXI[name]) for name in ("entry_1/technique", f"{DETECTOR}/regime")}))


def test_an_energy_per_frame_may_vary_by_its_noise_only(scan):
    check_clean(scan({ENERGY: JOULE * (1 + 1e-7 * np.random.default_rng(0).normal(size=N))}))
    with pytest.raises(ScanError, match="energy must not change"):
        scan({ENERGY: JOULE * np.linspace(1, 1.1, N)})


BEAM = "entry_1/instrument_1/beam_1"


@pytest.mark.parametrize(
    "places",
    [
        {ENERGY: None, f"{BEAM}/incident_beam_energy": JOULE},
        {ENERGY: None, f"{BEAM}/incident_energy": 10.0},
        {ENERGY: None, f"{BEAM}/incident_wavelength": WAVELENGTH_M},
        {ENERGY: None, f"{BEAM}/incident_wavelength": WithUnits([1.239841984], "angstrom")},
        {ENERGY: None, "entry_1/instrument_1/source_1/wavelength": WAVELENGTH_M},
        {ENERGY: None, "entry_1/sample_1/beam/incident_energy": WithUnits(1e4, "eV")},
        {ENERGY: None, "entry_1/instrument_1/monochromator/energy": WithUnits(10.0, "keV")},
        {TRANSLATION: None, "entry_1/data_1/translation": CXI[TRANSLATION]},
        {TRANSLATION: CXI[TRANSLATION][:, :2]},
        {ANGLE: None, "entry_1/data_1/rotation_angle": 30.0},
        {f"{DETECTOR}/data": None, "entry_1/data_1/data": FRAMES},
        {f"{DETECTOR}/data": None, "entry_1/data/data": FRAMES},
        {f"{DETECTOR}/data": h5py.SoftLink("/raw/frames"), "raw/frames": FRAMES},
    ],
)
def test_other_places(scan, places):
    check_clean(scan(places))


@pytest.mark.parametrize("energy", [-1.0, 0.0, WithUnits(3.0, "GeV"), WithUnits(6e9, "eV"), 3.0])
def test_what_is_no_photon_energy_is_passed_over(scan, energy):
    found = scan({ENERGY: energy, f"{BEAM}/incident_beam_energy": JOULE})
    check_clean(found)
    assert found.sources["energy"] == f"/{BEAM}/incident_beam_energy"
    assert f"from /{ENERGY} is not a photon energy" in found.warnings[0]
    with pytest.raises(ScanError, match=f"photon energy must be.*/{ENERGY}"):
        scan({ENERGY: energy})


def renamed(values, names):
    for old, new in names.items():
        values = {name.replace(old, new): value for name, value in values.items()}
    return values


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        ({"_1/": "/"}, {}),
        ({"entry_1": "entry"}, {}),
        ({"entry_1": "scan7"}, {"scan7": "NXentry"}),
        ({"entry_1": "scan7"}, {}),
        ({"detector_1": "eiger"}, {"entry_1/instrument_1/eiger": "NXdetector"}),
        (
            {"sample_1": "wire", "source_1": "undulator"},
            {"entry_1/wire": b"NXsample", "entry_1/instrument_1/undulator": "NXsource"},
        ),
        ({"entry_1": "entry1/tomo_entry"}, {"entry1": "NXentry"}),
    ],
)
def test_groups_are_found_by_name_or_by_class(tmp_path, names, classes):
    path = write(tmp_path / "scan.cxi", renamed(CXI, names))
    with h5py.File(path, "r+") as file:
        for name, of_class in classes.items():
            file[name].attrs["NX_class"] = of_class
    check_clean(read_scan(path))


def test_the_detector_with_frames_is_taken(tmp_path):
    path = write(tmp_path / "scan.cxi", renamed(CXI, {"detector_1": "zyla"}))
    with h5py.File(path, "r+") as file:
        file["entry_1/instrument_1/ammeter/distance"] = 5.0
        file["entry_1/instrument_1/ammeter/data"] = h5py.ExternalLink("gone.h5", "/data")
        for name in ("ammeter", "zyla"):
            file[f"entry_1/instrument_1/{name}"].attrs["NX_class"] = "NXdetector"
    check_clean(read_scan(path))


def test_the_signal_of_nxdata_is_found(tmp_path):
    path = write(tmp_path / "scan.nxs", CXI | {f"{DETECTOR}/data": None, "entry_1/scan/eiger": FRAMES})
    with h5py.File(path, "r+") as file:
        file["entry_1/scan"].attrs.update({"NX_class": "NXdata", "signal": "eiger"})
    check_clean(read_scan(path))


def test_a_second_entry_is_told(scan):
    found = scan({"entry_2/instrument_1/detector_1/data": FRAMES})
    check_clean(found)
    assert "only /entry_1 is read; other entries: /entry_2" in found.warnings


def test_the_definition_of_ptychography_implies_it(scan):
    check_clean(scan({"entry_1/technique": None, "entry_1/definition": "NXcxi_ptycho"}))


def test_darks_imply_no_technique(scan):
    """Darks have no position; the file holds zeros for them."""
    key = np.where(np.arange(N) < 2, 2, 0)
    translation = np.where(key == 0, 1e-6, 0.0)[:, None] * np.ones((1, 3))
    with pytest.raises(ScanError, match="needs technique"):
        scan({"entry_1/technique": None, TRANSLATION: translation, f"{DETECTOR}/image_key": key})


def test_positions_that_differ_by_noise_imply_no_technique(scan):
    jitter = 1e-9 * np.random.default_rng(0).uniform(size=(N, 3))
    with pytest.raises(ScanError, match="needs technique"):
        scan({"entry_1/technique": None, TRANSLATION: jitter})


def test_what_was_grouped_stands_in_the_sources(scan):
    found = scan({ANGLE: 30 + 1e-5 * np.random.default_rng(1).normal(size=N)})
    check_clean(found)
    assert found.sources["angle"].startswith(f"/{ANGLE}; 16 readings grouped into 1, those of a group at most")


def test_an_instrument_file_gives_a_wavelength_and_each_coordinate_of_the_sample(tmp_path):
    values = CXI | {ENERGY: None, TRANSLATION: None, "motors/x": WithUnits(X * 1e6, "um"), "motors/y": Y * 1e3}
    path = write(tmp_path / "scan.h5", values | {"mono/length": WithUnits(WAVELENGTH_M * 1e10, "angstrom")})
    places = {"energy": {"path": "/mono/length"}, "position_x": {"path": "/motors/x"}}
    places["position_y"] = {"path": "/motors/y", "unit": "mm"}
    check_clean(read_scan(path, instrument=Instrument.model_validate({"fields": places})))


TOMOGRAM = np.linspace(0, 180, N, endpoint=False)
NXTOMO = {
    "entry/definition": "NXtomo",
    "entry/instrument/detector/data": FRAMES,
    "entry/instrument/detector/image_key": np.zeros(N, int),
    "entry/instrument/detector/distance": WithUnits(10.0, "mm"),
    "entry/instrument/detector/x_pixel_size": WithUnits(1.0, "um"),
    "entry/instrument/detector/y_pixel_size": WithUnits(1.0, "um"),
    "entry/instrument/beam/incident_energy": WithUnits(10.0, "keV"),
    "entry/sample/rotation_angle": WithUnits(TOMOGRAM, "degree"),
}


def check_tomogram(found, rows=slice(None)):
    geometry = found.geometry
    assert (geometry.technique, geometry.detector.regime) == ("holography", "near_field")
    assert geometry.detector.pixel_size_m == pytest.approx((1e-6, 1e-6))
    assert energy_ev_from_wavelength(geometry.beam.wavelength_m) == pytest.approx(1e4)
    np.testing.assert_allclose(geometry.distance_m, 0.01)
    np.testing.assert_allclose(np.degrees(geometry.angle_rad), TOMOGRAM[rows])
    np.testing.assert_array_equal(geometry.position_m, 0)
    assert "NXtomo" in found.warnings[0]


@pytest.mark.parametrize(
    "replaced",
    [
        {},
        {"entry/definition": None},
        {"entry/definition": ["NXtomo"]},
        {"entry/instrument/beam/incident_energy": WithUnits([10.0], "kev")},
        {"entry/instrument/beam/incident_energy": 10.0},
        {"entry/instrument/beam/incident_energy": None, "entry/instrument/source/energy": WithUnits(10.0, "keV")},
        {"entry/instrument/beam/incident_energy": None, "entry/sample/incident_energy": WithUnits(1e4, "eV")},
        {"entry/instrument/beam/incident_energy": None, "entry/beam/incident_energy": WithUnits(10.0, "keV")},
        {"entry/instrument/detector/image_key": None},
        {"entry/instrument/detector/image_key": np.zeros((N, 1), int)},
        {"entry/instrument/detector/data": None, "entry/data/data": FRAMES},
        {"entry/sample/rotation_angle": None, "entry/data/rotation_angle": TOMOGRAM, "entry/sample/name": "wire"},
    ],
)
def test_nxtomo(tmp_path, replaced):
    check_tomogram(read_scan(write(tmp_path / "scan.nxs", NXTOMO | replaced)))


def test_nxtomo_in_the_entry_of_diamond(tmp_path):
    values = renamed(NXTOMO, {"entry/": "entry1/tomo_entry/"})
    values["entry1/instrument/source/energy"] = WithUnits(3.0, "GeV")
    values["entry1/tomo_entry/instrument/source/energy"] = WithUnits(3.0, "GeV")
    found = read_scan(write(tmp_path / "scan.nxs", values))
    check_tomogram(found) if "NXtomo" in found.warnings[0] else pytest.fail(str(found.warnings))


def test_nxtomo_image_keys(tmp_path):
    key = np.zeros(N, int)
    key[:3], key[3] = (1, 2, 3), 0
    control = np.where(np.arange(N) == 5, -1, key)
    values = NXTOMO | {
        "entry/instrument/detector/image_key": key,
        "entry/instrument/detector/image_key_control": control,
        "entry/instrument/detector/data": FRAMES + np.where(key == 1, 500, 0)[:, None, None].astype(np.uint16),
    }
    found = read_scan(write(tmp_path / "scan.nxs", values))
    views = np.flatnonzero(control == 0)
    assert found.frames.rows.tolist() == views.tolist()
    assert (found.frames.flat_rows, found.frames.dark_rows) == ((0,), (1,))
    check_tomogram(found, views)


def test_flats_belong_to_distances_that_are_read_back_with_noise(tmp_path):
    """Two distances, four frames and a flat at each; the noise is a hundredth of a thousandth of the distance."""
    where, noise = np.repeat([0, 1], N // 2), np.random.default_rng(3).normal(size=N)
    key = np.where(np.arange(N) % 8 == 7, 1, 0)
    values = NXTOMO | {
        "entry/instrument/detector/image_key": key,
        "entry/instrument/detector/distance": np.array([0.01, 0.02])[where] + 1e-7 * noise,
        "entry/instrument/detector/data": np.where(key == 1, 1000 * (1 + where), 500)[:, None, None]
        * np.ones((1, SIDE, SIDE)),
    }
    found = read_scan(write(tmp_path / "scan.nxs", values))
    np.testing.assert_allclose(np.unique(found.geometry.distance_m), [0.01, 0.02], atol=1e-6)
    levels = found.frames.read(np.arange(found.geometry.views)).mean((1, 2))
    np.testing.assert_allclose(levels, np.where(found.geometry.distance_m < 0.015, 0.5, 0.25))


def test_a_technique_of_the_recipe_goes_before_that_of_the_format(tmp_path):
    values = ScanValues(technique="microscopy", values={"numerical_aperture": 0.1})
    found = read_scan(write(tmp_path / "scan.nxs", NXTOMO), values=values)
    assert found.geometry.technique == "microscopy"


def test_paths_of_the_instrument_file_read_any_hdf5_file(tmp_path):
    stored = {"camera/frames": FRAMES, "stage/theta": TOMOGRAM, "mono/bragg_energy": 10.0}
    fields = {
        "technique": {"value": "holography"},
        "frames": {"path": "/camera/frames"},
        "angle": {"path": "/stage/theta", "unit": "deg"},
        "energy": {"path": "/mono/bragg_energy", "unit": "keV"},
        "distance": {"value": 10, "unit": "mm"},
        "pixel_size": {"value": 1, "unit": "um"},
    }
    path = write(tmp_path / "scan.h5", stored)
    instrument = Instrument.model_validate({"name": "B7", "fields": fields})
    found = read_scan(path, instrument=instrument)
    assert found.sources["angle"] == "instrument file B7: /stage/theta"
    np.testing.assert_allclose(np.degrees(found.geometry.angle_rad), TOMOGRAM)
    np.testing.assert_array_equal(found.frames.read(np.arange(N)), FRAMES)
    missing = Instrument.model_validate({"name": "B7", "fields": fields | {"energy": {"path": "/mono/gone"}}})
    with pytest.raises(ScanError, match=r"needs energy.*instrument file B7 \(/mono/gone\)"):
        read_scan(path, instrument=missing)
    unitless = Instrument.model_validate({"name": "B7", "fields": fields | {"angle": {"path": "/stage/theta"}}})
    with pytest.raises(ScanError, match="number needs a unit"):
        read_scan(path, instrument=unitless)
