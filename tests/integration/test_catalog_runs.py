"""Runs as they are found: three layouts, several clients, values in several places."""

import numpy as np
import pytest
from databroker.client import BlueskyRun, CatalogOfBlueskyRuns
from numpy.testing import assert_allclose, assert_array_equal
from tiled.utils import OneShotCachedMap
from written_run import FRAMES, POSITIONS, START, write_frames, write_run

from bluesky_multislice.catalog import resolve_scan
from bluesky_multislice.errors import ScanError
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues

POSITION_M = -1e-6 * np.array([[4.0, 1.0], [5.0, 2.0], [6.0, 3.0]])


def instrument(**places):
    return Instrument(name="B7", fields={field: FieldPlace(**place) for field, place in places.items()})


def check(scan):
    assert_allclose(scan.geometry.position_m, POSITION_M)
    assert_array_equal(scan.frames.read(np.arange(3)), FRAMES)


def test_clients_of_databroker_and_the_run_itself_are_accepted(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder))
    # A dispatch of its own: `run.v2` changes the dispatch that all clients of the process share.
    dispatch = OneShotCachedMap({name: lambda kind=kind: kind for name, kind in tiled_client.structure_clients.items()})
    catalog = CatalogOfBlueskyRuns(tiled_client.context, item=tiled_client.item, structure_clients=dispatch)
    run = catalog[uid]
    assert isinstance(run, BlueskyRun)
    for client in (catalog, run, run.v2):
        check(resolve_scan(client, uid).scan)


def test_the_layout_with_a_streams_level(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder))
    old = tiled_client.create_container(
        "streams-" + uid, metadata={"start": START | {"uid": uid}, "stop": {"exit_status": "success"}}
    )
    made = tiled_client[uid, "primary"]
    primary = old.create_container("streams").create_container("primary", metadata=dict(made.metadata))
    primary.write_table(made.base["internal"].read(), key="internal")
    primary.new("array", tiled_client[uid, "primary", "image"].data_sources(), key="image")
    check(resolve_scan(old, uid).scan)


def test_the_layout_of_databroker_on_mongodb(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder))
    old = tiled_client.create_container(
        "mongo-" + uid,
        metadata={"start": START | {"uid": uid}, "stop": {"exit_status": "success", "num_events": {"primary": 3}}},
    )
    descriptor = {"data_keys": {name: {"units": units} for name, (units, _) in POSITIONS.items()}}
    primary = old.create_container("primary", metadata={"descriptors": [descriptor], "stream_name": "primary"})
    data = primary.create_container("data")
    for name, (_, values) in POSITIONS.items():
        data.write_array(np.array(values), key=name)
    data.write_array(FRAMES[:, np.newaxis], key="image")
    resolved = resolve_scan(old, uid)
    assert resolved.files is None
    check(resolved.scan)


def test_the_instrument_file_finds_values_in_every_place(tiled_client, folder):
    uid = write_run(
        tiled_client,
        write_frames(folder),
        start={"energy_ev": None, "detector_distance_m": None, "detector_pixel_size_m": None, "detector_regime": None}
        | {"beamline": {"camera_length": 2500}},
        columns={"theta": ("deg", [0.0, 90.0, 180.0]), "px": ("mm", [0.0, 0.0, 1.0]), "py": (None, [0.0, 0.0, 0.0])},
        configuration={
            "camera": {
                "data": {"camera-pitch": 75.0},
                "timestamps": {"camera-pitch": 0.0},
                "data_keys": {"camera-pitch": {"source": "t", "dtype": "number", "shape": [], "units": "um"}},
            }
        },
        baseline={"mono_energy": ("keV", [12.4, 12.4])},
    )
    scan = resolve_scan(
        tiled_client,
        uid,
        instrument=instrument(
            energy={"path": "baseline:mono_energy"},
            distance={"path": "start:beamline.camera_length", "unit": "mm"},
            pixel_size={"path": "configuration:camera.pitch"},
            regime={"value": "far_field"},
            angle={"path": "primary:theta"},
            position_x={"path": "primary:px"},
            position_y={"path": "primary:py", "unit": "nm"},
            frames={"path": "primary:image"},
        ),
    ).scan
    assert scan.geometry.beam.wavelength_m == pytest.approx(1.239841984e-6 / 12400)
    assert scan.geometry.distance_m[0] == 2.5
    assert scan.geometry.detector.pixel_size_m == pytest.approx((75e-6, 75e-6))
    assert_allclose(scan.geometry.angle_rad, [0, np.pi / 2, np.pi])
    assert_allclose(scan.geometry.position_m[2], [0, -1e-3])
    assert scan.sources["energy"] == "instrument file B7: baseline:mono_energy"
    assert scan.sources["pixel_size"] == "instrument file B7: configuration:camera.camera-pitch"


def test_recipe_before_run_before_instrument_file(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder))
    places = instrument(energy={"value": 5, "unit": "keV"}, focus_distance={"value": 4, "unit": "mm"})
    scan = resolve_scan(tiled_client, uid, values=ScanValues(distance_m=3.0, angle_deg=45), instrument=places).scan
    assert scan.sources["distance"] == "recipe scan.distance_m"
    assert scan.geometry.distance_m[0] == 3.0
    assert_allclose(scan.geometry.angle_rad, np.pi / 4)
    assert scan.sources["energy"] == "start:energy_ev"
    assert scan.geometry.beam.focus_distance_m == pytest.approx(4e-3)


def test_holography_stands_at_the_rotation_axis_and_its_regime_is_near_field(tiled_client, folder):
    uid = write_run(
        tiled_client,
        write_frames(folder),
        start={"technique": "holography", "detector_regime": None},
        columns={"rotation_angle": ("deg", [0.0, 1.0, 2.0]), "detector_distance": ("mm", [100.0, 110.0, 120.0])},
    )
    scan = resolve_scan(tiled_client, uid).scan
    assert_array_equal(scan.geometry.position_m, 0)
    assert scan.sources["position_x"] == "absent: the rotation axis"
    assert scan.geometry.detector.regime == "near_field"
    assert "near_field is assumed" in scan.warnings[0]
    assert_allclose(scan.geometry.distance_m, [0.1, 0.11, 0.12])


def test_read_back_noise_units_and_shapes_are_those_of_files(tiled_client, folder):
    """What files and runs have in common is tested with files; this run shows that both share it."""
    start = {"energy_ev": [12400.0], "technique": ["ptychography"], "detector_distance_m": None}
    columns = {
        "rotation_angle": ("Degrees", [30.0, 30.00001, 29.99999]),
        "sample_x": ("microns", [1.0, 2.0, 3.0]),
        "detector_distance": ("mm", [2000.0, 2000.00001, 2000.0]),
    }
    scan = resolve_scan(
        tiled_client, write_run(tiled_client, write_frames(folder), start=start, columns=POSITIONS | columns)
    ).scan
    check(scan)
    assert len(np.unique(scan.geometry.angle_rad)) == len(np.unique(scan.geometry.distance_m)) == 1
    assert scan.sources["angle"].startswith("primary:rotation_angle; 3 readings grouped into 1")
    assert scan.geometry.distance_m[0] == pytest.approx(2.0)


def test_darks_and_flats_are_no_views(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder), columns=POSITIONS | {"image_key": ("1", [2, 0, 1])})
    scan = resolve_scan(tiled_client, uid).scan
    assert scan.frames.rows.tolist() == [1]
    assert (scan.frames.dark_rows, scan.frames.flat_rows) == ((0,), (2,))
    assert_allclose(scan.geometry.position_m, POSITION_M[1:2])


def test_a_run_of_one_angle_says_so_in_its_start_document(tiled_client, folder):
    held = {name: column for name, column in POSITIONS.items() if name != "rotation_angle"}
    uid = write_run(tiled_client, write_frames(folder), start={"rotation_angle_deg": 90}, columns=held)
    assert_allclose(resolve_scan(tiled_client, uid).scan.geometry.angle_rad, np.pi / 2)


def test_a_number_that_only_one_technique_has(tiled_client, folder):
    microscope = {"technique": "microscopy", "detector_regime": None, "detector_distance_m": 0.0}
    uid = write_run(tiled_client, write_frames(folder), start=microscope | {"numerical_aperture": 0.03})
    scan = resolve_scan(tiled_client, uid).scan
    assert scan.geometry.values == {"numerical_aperture": 0.03}
    assert scan.geometry.detector.imaged
    assert scan.sources["numerical_aperture"] == "start:numerical_aperture"
    assert scan.sources["regime"] == "implied by microscopy"
    given = ScanValues(values={"numerical_aperture": 0.02})
    assert resolve_scan(tiled_client, uid, values=given).scan.geometry.values == {"numerical_aperture": 0.02}
    missing = write_run(tiled_client, write_frames(folder), start=microscope)
    places = r"recipe scan\.values\.numerical_aperture, start:numerical_aperture, instrument file"
    with pytest.raises(ScanError, match=places):
        resolve_scan(tiled_client, missing)
    held = instrument(numerical_aperture={"value": 0.01})
    assert resolve_scan(tiled_client, missing, instrument=held).scan.geometry.values == {"numerical_aperture": 0.01}


def test_a_cone_beam_in_which_the_sample_moves(tiled_client, folder):
    columns = {**POSITIONS, "focus_distance": ("mm", [1.0, 1.0, 2.0])}
    microscope = {"technique": "holography", "detector_regime": None, "source_size_m": 5e-8}
    uid = write_run(tiled_client, write_frames(folder), start=microscope, columns=columns)
    scan = resolve_scan(tiled_client, uid).scan
    assert scan.geometry.beam.focus_distance_m == pytest.approx((1e-3, 1e-3, 2e-3))
    assert scan.geometry.beam.source_size_m == 5e-8
    assert scan.sources["focus_distance"] == "primary:focus_distance"
    still = ScanValues(focus_distance_mm=3.0, source_size_um=0.02)
    beam = resolve_scan(tiled_client, uid, values=still).scan.geometry.beam
    assert (beam.focus_distance_m, beam.source_size_m) == pytest.approx((3e-3, 2e-8))
    parallel = write_run(tiled_client, write_frames(folder), start={**microscope, "source_size_m": None})
    values = ScanValues(divergence_urad=2.0)
    assert resolve_scan(tiled_client, parallel, values=values).scan.geometry.beam.divergence_rad == pytest.approx(2e-6)
