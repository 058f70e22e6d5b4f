"""An interchange file becomes an ordinary run that resolves to the same scan."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from small_scan import hologram_scan

from bluesky_multislice.catalog import ingest, resolve_scan
from bluesky_multislice.errors import CatalogError, ScanError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.recipe import FieldPlace, Instrument, Recipe, ScanValues, make_recipe


def check_same(found, expected):
    for name in ("distance_m", "angle_rad", "position_m"):
        assert_allclose(getattr(found.geometry, name), getattr(expected.geometry, name), rtol=1e-6, atol=1e-15)
    assert found.geometry.detector == expected.geometry.detector
    assert found.geometry.beam.wavelength_m == pytest.approx(expected.geometry.beam.wavelength_m)
    assert found.geometry.beam.focus_distance_m == expected.geometry.beam.focus_distance_m
    views = np.arange(expected.geometry.views)
    assert_array_equal(found.frames.read(views), expected.frames.read(views))
    assert_array_equal(found.frames.mask, expected.frames.mask)
    assert found.frames.saturation == expected.frames.saturation


def test_the_real_scan(tiled_client, real_scan):
    values = ScanValues(focus_distance_mm=3.65)
    uid = ingest(tiled_client, real_scan, values=values, multislice={"auto": False})
    resolved = resolve_scan(tiled_client, uid)
    check_same(resolved.scan, read_scan(real_scan, values=values))
    assert resolved.files[0].path == real_scan
    assert resolved.scan.frames.views == 200
    assert resolved.scan.sources["energy"] == "start:energy_ev, from /entry_1/instrument_1/source_1/energy"
    assert any("technique is not recorded" in text for text in resolved.scan.warnings)
    assert resolved.start["multislice"] == {"auto": False}
    run = tiled_client[uid]
    assert run.stop["exit_status"] == "success"
    assert run["primary", "camera"].shape == (200, 100, 100)
    assert_array_equal(run["primary", "camera"][7], h5py.File(real_scan)["entry_1/instrument_1/detector_1/data"][7])


def test_what_the_real_scan_lacks_may_come_later(tiled_client, real_scan):
    uid = ingest(tiled_client, real_scan)
    with pytest.raises(ScanError, match="A scan needs regime"):
        resolve_scan(tiled_client, uid)
    places = {"focus_distance": FieldPlace(value=3.65, unit="mm")}
    scan = resolve_scan(tiled_client, uid, instrument=Instrument(name="P25", fields=places)).scan
    assert scan.geometry.beam.focus_distance_m == pytest.approx(3.65e-3)
    assert scan.geometry.detector.regime == "near_field"


def test_darks_flats_mask_probe_and_orientation_survive(tiled_client, folder, geometry, frames):
    rng = np.random.default_rng(2)
    stored = np.concatenate([frames.transpose(0, 2, 1) + 10, np.full((1, 8, 6), 5.0), np.full((1, 8, 6), 105.0)])
    mask = rng.random((8, 6)) > 0.2
    expected = Scan(
        geometry,
        Frames(
            stored.astype(np.float32),
            rows=np.arange(4),
            dark_rows=[4],
            flat_rows=[5],
            mask=mask,
            orientation="transpose",
            saturation=500.0,
        ),
        probe=rng.random((2, 6, 8)).astype(np.complex64),
    )
    write_scan(folder / "scan.cxi", expected)
    scan = resolve_scan(tiled_client, ingest(tiled_client, folder / "scan.cxi")).scan
    check_same(scan, expected)
    assert_array_equal(scan.probe, expected.probe)


def test_a_cone_beam_in_which_the_sample_moves(tiled_client, folder, geometry, frames):
    focus_m = tuple(np.linspace(0.1, 0.2, geometry.views).tolist())
    beam = replace(geometry.beam, focus_distance_m=focus_m, source_size_m=1e-6)
    detector = replace(geometry.detector, regime="near_field")
    expected = Scan(replace(geometry, beam=beam, detector=detector), Frames(frames))
    write_scan(folder / "cone.cxi", expected)
    scan = resolve_scan(tiled_client, ingest(tiled_client, folder / "cone.cxi")).scan
    assert scan.geometry.beam.focus_distance_m == pytest.approx(focus_m)
    assert scan.geometry.beam.source_size_m == 1e-6


def test_a_given_axis_moves_the_positions_once(tiled_client, folder):
    scan, values = hologram_scan(), ScanValues(axis_pixels=5)
    write_scan(folder / "tomo.cxi", scan)
    expected = read_scan(folder / "tomo.cxi", values=values).geometry.position_m
    request = {"auto": False, "recipe": Recipe(scan=values).model_dump(mode="json", exclude_defaults=True)}
    uid = ingest(tiled_client, folder / "tomo.cxi", values=values, multislice=request)
    asked = make_recipe(tiled_client[uid].metadata["start"]["multislice"]["recipe"], origin="the run").scan
    assert abs(expected[:, 1]).max() > 0
    assert_allclose(resolve_scan(tiled_client, uid, values=asked).scan.geometry.position_m, expected, atol=1e-15)


def test_a_file_without_energy_leaves_no_run(tiled_client, folder, geometry, frames):
    write_scan(folder / "scan.cxi", Scan(geometry, Frames(frames)))
    with h5py.File(folder / "scan.cxi", "a") as file:
        del file["entry_1/instrument_1/source_1/energy"]
    before = len(tiled_client)
    with pytest.raises(ScanError, match="energy"):
        ingest(tiled_client, folder / "scan.cxi")
    assert len(tiled_client) == before


def test_a_file_that_the_server_may_not_read_leaves_a_failed_run(tiled_client, tmp_path, geometry, frames):
    write_scan(tmp_path / "scan.cxi", Scan(geometry, Frames(frames)))
    with pytest.raises(CatalogError, match="readable_storage"):
        ingest(tiled_client, tmp_path / "scan.cxi")
    assert tiled_client.values().last().stop["exit_status"] == "fail"
