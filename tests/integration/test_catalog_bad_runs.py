"""What a bad run gets: one clear error that names the rule, what came and the remedy."""

import os

import h5py
import pytest
from written_run import FRAMES, POSITIONS, write_frames, write_run

from bluesky_multislice.catalog import connect, resolve_scan
from bluesky_multislice.errors import CatalogError, FramesError, ScanError
from bluesky_multislice.recipe import ScanValues


@pytest.mark.parametrize(
    ("start", "columns", "field", "places"),
    [
        ({"technique": None}, None, "technique", ["recipe scan.technique", "start:technique", "instrument file"]),
        ({"energy_ev": None}, None, "energy", ["recipe scan.energy_ev", "start:energy_ev", "instrument file"]),
        ({"detector_regime": None}, None, "regime", ["recipe scan.regime", "start:detector_regime"]),
        (
            {"detector_distance_m": None},
            None,
            "distance",
            ["recipe scan.distance_m", "primary:detector_distance", "start:detector_distance_m"],
        ),
        ({"detector_pixel_size_m": None}, None, "pixel size", ["scan.pixel_size_um", "start:detector_pixel_size_m"]),
        ({}, "rotation_angle", "angle", ["scan.angle_deg", "primary:rotation_angle", "start:rotation_angle_deg"]),
        ({}, "sample_x", "position x", ["event data key primary:sample_x", "instrument file (none given)"]),
        ({}, "sample_y", "position y", ["event data key primary:sample_y"]),
        ({"position_y_key": "stage_y"}, None, "position y", ["event data key primary:stage_y"]),
    ],
)
def test_a_missing_value_names_the_field_and_every_place(tiled_client, folder, start, columns, field, places):
    held = {name: column for name, column in POSITIONS.items() if name != columns}
    uid = write_run(tiled_client, write_frames(folder), start=start, columns=held)
    with pytest.raises(ScanError) as caught:
        resolve_scan(tiled_client, uid)
    assert caught.value.rule == f"A scan needs {field}."
    assert uid in caught.value.got
    for place in places:
        assert place in caught.value.got


@pytest.mark.parametrize(
    ("exit_status", "came"),
    [("abort", "ended with abort: beam lost"), ("fail", "fail"), (None, "no stop document yet")],
)
def test_only_a_run_that_succeeded_is_taken(tiled_client, folder, exit_status, came):
    uid = write_run(tiled_client, write_frames(folder), exit_status=exit_status)
    with pytest.raises(ScanError, match="ended with success") as caught:
        resolve_scan(tiled_client, uid)
    assert came in caught.value.got


def test_fewer_frames_than_events_in_the_catalogue(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder), declared=2)
    with pytest.raises(FramesError, match="2 frames for 3 events"):
        resolve_scan(tiled_client, uid)


def test_fewer_frames_than_events_in_the_file(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder, FRAMES[:2]))
    with pytest.raises(FramesError, match=r"shape \(2, 4, 5\) for 3 frames"):
        resolve_scan(tiled_client, uid)


def test_a_missing_detector_file(tiled_client, folder):
    path = write_frames(folder)
    uid = write_run(tiled_client, path)
    path.unlink()
    with pytest.raises(FramesError) as caught:
        resolve_scan(tiled_client, uid)
    assert path.name in caught.value.got


@pytest.mark.parametrize("kept", [0.1, 0.9])
def test_a_truncated_detector_file(tiled_client, folder, kept):
    path = write_frames(folder)
    uid = write_run(tiled_client, path)
    os.truncate(path, int(path.stat().st_size * kept))
    with pytest.raises(FramesError, match="truncated"):
        resolve_scan(tiled_client, uid)


def test_a_file_without_the_dataset(tiled_client, folder):
    path = write_frames(folder)
    uid = write_run(tiled_client, path)
    with h5py.File(path, "a") as file:
        file.move("data", "other")
    with pytest.raises(FramesError, match="dataset data of shape None"):
        resolve_scan(tiled_client, uid)


@pytest.mark.parametrize(
    ("start", "columns", "rule"),
    [
        ({"energy_ev": "12 keV"}, {}, "must be a number"),
        ({"energy_ev": 0.0}, {}, "energy must be positive"),
        ({"technique": "laminography"}, {}, "must be ptychography or holography"),
        ({"detector_distance_m": -1.0}, {}, "distance must be positive"),
        ({"detector_pixel_size_m": [1e-6, 1e-6, 1e-6]}, {}, "one number, or two"),
        ({"detector_image": "nothing"}, {}, "must be an array of the stream primary"),
        ({"detector_orientation": "sideways"}, {}, "orientation must be as_is or"),
        ({}, {"rotation_angle": (None, [0.0, 0.0, 0.0])}, "A number needs a unit"),
        ({}, {"rotation_angle": ("mm", [0.0, 0.0, 0.0])}, "must have a unit that converts to radian"),
        ({}, {"sample_x": ("um", [0.0, float("nan"), 0.0])}, "Every position x must be a finite number"),
        ({}, {"image_key": ("1", [1, 1, 2])}, "at least one image_key must be 0"),
    ],
)
def test_a_value_that_cannot_be(tiled_client, folder, start, columns, rule):
    uid = write_run(tiled_client, write_frames(folder), start=start, columns=POSITIONS | columns)
    with pytest.raises((ScanError, FramesError), match=rule):
        resolve_scan(tiled_client, uid)


def test_a_value_of_the_recipe_mends_a_run(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder), start={"energy_ev": None})
    scan = resolve_scan(tiled_client, uid, values=ScanValues(energy_ev=8000)).scan
    assert scan.geometry.beam.wavelength_m == pytest.approx(1.5498e-10, rel=1e-4)
    assert scan.sources["energy"] == "recipe scan.energy_ev"


def test_a_run_that_is_not_there(tiled_client):
    with pytest.raises(CatalogError, match="must be in the catalogue"):
        resolve_scan(tiled_client, "0" * 36)


def test_a_server_that_is_not_there_or_refuses_keeps_the_key_to_itself(tiled_server):
    for uri in (f"http://127.0.0.1:{tiled_server.port}/api/v1", "http://127.0.0.1:9/api/v1"):
        with pytest.raises(CatalogError) as caught:
            connect(uri, api_key="5ec4e7")
        assert "5ec4e7" not in str(caught.value)


def test_connect_takes_the_key_from_the_environment(tiled_server, monkeypatch):
    monkeypatch.setenv("TILED_API_KEY", tiled_server.api_key)
    client = connect(f"http://127.0.0.1:{tiled_server.port}/api/v1")
    assert client.context.api_key == tiled_server.api_key
    client.context.close()
