"""The example instrument files, each with a scan of the shape that it is written for."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from written_run import FRAMES, write_frames, write_run, write_streams

from bluesky_multislice.catalog import resolve_scan
from bluesky_multislice.files import read_scan
from bluesky_multislice.recipe import read_instrument

INSTRUMENTS = Path(__file__).parents[2] / "deploy" / "instruments"
BRAGG_DEG = 12.0
BRAGG_ENERGY_EV = 12398.41984 / (2 * 5.431020511 / np.sqrt(3) * np.sin(np.radians(BRAGG_DEG)))


def example(name):
    return read_instrument(INSTRUMENTS / f"{name}.toml")


def energy_ev(scan):
    return 1.239841984e-6 / scan.geometry.beam.wavelength_m


def arrays(path, **held):
    with h5py.File(path, "w") as file:
        for name, values in held.items():
            file[name] = values
    return path


def test_step_scan(tiled_client, folder):
    """Motors in the events, the angle and the energy in the baseline, the detector's values in its configuration."""
    path = write_frames(folder)
    values = {"detector_distance": (3.5, "m"), "x_pixel_size": (75.0, "um"), "acquire_time": (0.1, "s")}
    described = {f"image_{name}": {"source": "t", "dtype": "number", "shape": []} for name in values}
    held = {
        "data": {f"image_{name}": value for name, (value, _) in values.items()},
        "timestamps": dict.fromkeys(described, 0.0),
        "data_keys": {key: described[key] | {"units": values[key.removeprefix("image_")][1]} for key in described},
    }
    uid = write_run(
        tiled_client,
        path,
        start={"technique": None, "energy_ev": None, "detector_distance_m": None, "detector_pixel_size_m": None}
        | {"detector_regime": None},
        columns={"sample_x": ("mm", [1e-3, 2e-3, 3e-3]), "sample_y": (None, [4.0, 5.0, 6.0])},
        configuration={"image": held},
        baseline={"sample_theta": ("degree", [30.0, 30.0001]), "mono_energy": (None, [9.0, 9.0])},
    )
    text = (INSTRUMENTS / "step-scan.toml").read_text().replace("eiger_image", "image").replace(":eiger.", ":image.")
    (folder / "step.toml").write_text(text)
    scan = resolve_scan(tiled_client, uid, instrument=read_instrument(folder / "step.toml")).scan
    assert_allclose(scan.geometry.position_m, -1e-6 * np.array([[4, 1], [5, 2], [6, 3]]))
    assert_allclose(np.degrees(scan.geometry.angle_rad), 30)
    assert_allclose(scan.geometry.distance_m, 3.5)
    assert energy_ev(scan) == pytest.approx(9000)
    assert_array_equal(scan.frames.read(np.arange(3)), FRAMES)


def test_fly_scan_with_panda_and_eiger(tiled_client, folder):
    """No events at all: frames and encoders in files of two streams, four samples per frame, a Bragg angle."""
    frames = np.arange(6 * 4 * 5, dtype=np.uint32).reshape(6, 4, 5)
    x_um, y_um = np.arange(24.0), 100 - np.arange(24.0)
    eiger = arrays(folder / "eiger.h5", data=frames)
    panda = arrays(folder / "panda.h5", x=x_um, y=y_um)
    uid = write_streams(
        tiled_client,
        {
            "fly": {"eiger-image": (eiger, "data", 6, (1, 4, 5), None)},
            "panda": {
                "panda-inenc1-val": (panda, "x", 24, (), None),
                "panda-inenc2-val": (panda, "y", 24, (), None),
            },
        },
        baseline={
            "sample_theta": ("degree", [-15.0, -15.0]),
            "dcm_bragg": ("degree", [BRAGG_DEG, BRAGG_DEG]),
            "eiger_z": ("mm", [2050.0, 2050.0]),
        },
    )
    scan = resolve_scan(tiled_client, uid, instrument=example("fly-scan-panda-eiger")).scan
    assert_allclose(scan.geometry.position_m[:, 1], -1e-6 * x_um.reshape(6, 4).mean(1))
    assert_allclose(scan.geometry.position_m[:, 0], -1e-6 * y_um.reshape(6, 4).mean(1))
    assert_allclose(np.degrees(scan.geometry.angle_rad), -15)
    assert energy_ev(scan) == pytest.approx(BRAGG_ENERGY_EV, rel=1e-8)
    assert scan.sources["energy"].endswith("baseline:dcm_bragg, Bragg angle of Si 111")
    assert "means of 4 samples" in scan.sources["position_x"]
    assert_array_equal(scan.frames.read(np.arange(6)), frames)


def test_full_field_with_dark_and_flat_streams(tiled_client, folder):
    """Three streams of several frames per event; every frame of the projections is a view at its own angle."""
    projections = np.random.default_rng(3).integers(200, 400, (6, 4, 5)).astype(np.uint16)
    path = arrays(folder / "kinetix.h5", data=projections, angle=np.linspace(0, 150, 6))
    dark = arrays(folder / "dark.h5", data=np.full((3, 4, 5), 100, np.uint16))
    flat = arrays(folder / "flat.h5", data=np.full((3, 4, 5), 500, np.uint16))
    image = "kinetix-image"
    uid = write_streams(
        tiled_client,
        {
            "dark_field": {image: (dark, "data", 1, (3, 4, 5), None)},
            "flat_field": {image: (flat, "data", 1, (3, 4, 5), None)},
            "projections": {
                image: (path, "data", 2, (3, 4, 5), None),
                "rotation-angle": (path, "angle", 2, (3,), "degree"),
            },
        },
        start={"beamline": {"energy": 20.0}, "plan_args": {"exposure_time": 0.05}},
        baseline={"detector_z": ("mm", [120.0, 120.0]), "effective_pixel": ("um", [0.65, 0.65])},
    )
    resolved = resolve_scan(tiled_client, uid, instrument=example("full-field-darks-flats"))
    scan = resolved.scan
    assert_allclose(np.degrees(scan.geometry.angle_rad), np.linspace(0, 150, 6))
    assert_allclose(scan.frames.read(np.arange(6)), (projections - 100.0) / 400, rtol=1e-6)
    assert scan.sources["darks"] == "stream dark_field: 1 frames"
    assert scan.geometry.distance_m[0] == pytest.approx(0.12)
    assert scan.geometry.detector.pixel_size_m == pytest.approx((0.65e-6, 0.65e-6))
    assert energy_ev(scan) == pytest.approx(20_000)


def test_nexus_files(tmp_path):
    """A NeXus file with a link to the detector's file, motors in groups of their own, and a Bragg angle."""
    frames = np.arange(6 * 4 * 5, dtype=np.uint32).reshape(6, 4, 5)
    arrays(tmp_path / "eiger.h5", data=frames)
    with h5py.File(tmp_path / "scan.nxs", "w") as file:
        file["/entry1/instrument/eiger/data"] = h5py.ExternalLink("eiger.h5", "data")
        file["/entry1/lab_sx/lab_sx_value"] = np.arange(6.0)
        file["/entry1/lab_sy/lab_sy_value"] = np.arange(6.0)[:, np.newaxis] / 2
        file["/entry1/before_scan/lab_rot/value"] = [45.0]
        file["/entry1/before_scan/dcm/bragg"] = BRAGG_DEG
        file["/entry1/before_scan/camera_length/value"] = 4600.0
    scan = read_scan(tmp_path / "scan.nxs", instrument=example("nexus-files"))
    assert_allclose(scan.geometry.position_m, -1e-6 * np.stack([np.arange(6) / 2, np.arange(6)], axis=1))
    assert_allclose(np.degrees(scan.geometry.angle_rad), 45)
    assert energy_ev(scan) == pytest.approx(BRAGG_ENERGY_EV, rel=1e-8)
    assert scan.geometry.distance_m[0] == pytest.approx(4.6)
    assert_array_equal(scan.frames.read(np.arange(6)), frames)
