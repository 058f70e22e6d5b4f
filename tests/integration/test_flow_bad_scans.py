"""What a bad scan gets from the real flow: one clear error in state and log, no result, and the services go on."""

import os
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from bluesky.utils import RequestAbort
from flow_runs import QUICK, eventually, log_of, run, service, worker
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.deployments import run_deployment
from prefect.exceptions import PrefectHTTPStatusError

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.listener import AUTOMATIC_TAG
from bluesky_multislice.recipe import DEPLOYMENT
from bluesky_multislice.simulation.beamline import run_scan
from bluesky_multislice.simulation.detector import FRAMES_DATASET

GOOD_PIXELS = "Good pixels must have finite, non-negative, unsaturated values."
RECIPES = [
    ({"epochs": 0}, "epochs: Input should be greater than or equal to 1 (got 0)"),
    ({"step": "fast"}, "step: Input should be a valid number"),
    ({"scan": {"energy_ev": -8000}}, "scan.energy_ev: Input should be greater than 10"),
    ({"no_such_field": 1}, "no_such_field: Extra inputs are not permitted (got 1)"),
]


def abort_at(frame):
    """Return a progress callback by which the RunEngine aborts the scan."""

    def progress(frames):
        if frames == frame:
            raise RequestAbort

    return progress


def check_refused(client, uid, error, rule, came):
    """Run the flow: it must fail with this error in state and log, and leave nothing that looks complete."""
    state = run(uid)
    assert state.is_failed()
    for words in (error, rule, "Got: ", came, "Remedy: "):
        assert words in state.message
    eventually(lambda: state.message in log_of(state.state_details.flow_run_id))
    assert_nothing_complete(client, uid)


def assert_nothing_complete(client, uid):
    assert not [found for found in find_reconstructions(client, uid) if found.status == "complete"]
    assert not list((Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid).glob("*/result/volume.h5"))


@pytest.mark.parametrize(
    ("start", "field", "place"),
    [
        ({"energy_ev": None}, "energy", "start:energy_ev"),
        ({"detector_distance_m": None}, "distance", "start:detector_distance_m"),
        ({"detector_pixel_size_m": None}, "pixel size", "start:detector_pixel_size_m"),
        ({"angle_key": "no_motor"}, "angle", "primary:no_motor"),
        ({"technique": "ptychography", "position_x_key": "no_motor"}, "position x", "primary:no_motor"),
        ({"technique": "ptychography", "position_y_key": "no_motor"}, "position y", "primary:no_motor"),
    ],
)
def test_a_missing_value(services, take, tiled_client, start, field, place):
    check_refused(tiled_client, take(**start), "ScanError", f"A scan needs {field}.", place)


def test_an_aborted_run(services, take, tiled_client):
    uid = take(progress=abort_at(3))
    check_refused(
        tiled_client, uid, "ScanError", "Only a run that ended with success", f"run {uid} that ended with abort"
    )


def shorten(path):
    with h5py.File(path, "a") as file:
        file[FRAMES_DATASET].resize(5, axis=0)


def truncate(path):
    os.truncate(path, path.stat().st_size * 3 // 4)


@pytest.mark.parametrize(
    ("spoil", "rule", "came"),
    [
        (shorten, "The detector's file must contain every frame of the scan", "shape (5, 16, 16) for 8 frames"),
        (truncate, "A file with frames must be readable", "truncated file"),
        (Path.unlink, "The Tiled server must be able to read the detector's frames.", ".h5"),
    ],
)
def test_a_spoilt_detector_file(services, take, tiled_client, folder, spoil, rule, came):
    uid = take()
    (path,) = folder.glob("*.h5")
    spoil(path)
    check_refused(tiled_client, uid, "FramesError", rule, came)


@pytest.mark.parametrize(
    ("value", "dtype", "came"),
    [
        (np.nan, np.float32, "1 NaN or infinite pixels in view 5"),
        pytest.param(-5, np.float32, "1 negative pixels in view 5", marks=pytest.mark.matrix),
        pytest.param(65535, np.uint16, "1 saturated (≥ 65535) pixels in view 5", marks=pytest.mark.matrix),
    ],
)
def test_bad_pixels(services, take, tiled_client, hologram, value, dtype, came):
    frames = (1e3 * hologram.frames.source).astype(dtype)
    frames[5, 3, 3] = value
    check_refused(tiled_client, take(frames), "FramesError", GOOD_PIXELS, came)


def test_an_unknown_run(services, tiled_client):
    check_refused(tiled_client, "no-such-run", "CatalogError", "The run must be in the catalogue.", "no-such-run")


def test_without_its_environment_the_flow_says_what_to_set(services, monkeypatch):
    monkeypatch.delenv("MULTISLICE_JOBS_ROOT")
    state = run("any")
    assert state.is_failed()
    assert "MULTISLICE_JOBS_ROOT" in state.message


@pytest.mark.parametrize("recipe", [values for values, _ in RECIPES])
def test_prefect_refuses_a_wrong_recipe_before_anything_starts(deployment, recipe):
    with pytest.raises(PrefectHTTPStatusError) as caught:
        run_deployment(DEPLOYMENT, parameters={"run_uid": "any", "recipe": recipe}, timeout=0)
    assert caught.value.response.status_code == 409
    detail = caught.value.response.json()["detail"]
    assert "Validation failed" in detail
    assert next(iter(recipe)) in detail


def test_the_services_go_on(deployment, services, tiled_client, monkeypatch, tmp_path, folder, hologram):
    """Bad scans come first, by themselves; the same services then reconstruct a good one."""

    def scan(client, recipe, **options):
        options = {"frames": hologram.frames.source} | options
        asks = {"multislice": {"auto": True, "recipe": recipe}}
        return run_scan(client, geometry=hologram.geometry, folder=folder, metadata=asks, **options)

    quick = QUICK.model_dump(mode="json", exclude_defaults=True)
    negative = np.full_like(hologram.frames.source, -1)
    # A catalogue of its own, so that the listener finds the runs of this test only.
    client = tiled_client.create_container(tmp_path.name)
    monkeypatch.setenv("MULTISLICE_TILED_URI", client.uri)
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(folder))
    with worker(), service("multislice", "listen"):
        expected = {scan(client, recipe): came for recipe, came in RECIPES[:2]}
        expected[scan(client, quick, progress=abort_at(3))] = "ended with abort"
        expected[scan(client, quick, frames=negative)] = GOOD_PIXELS
        states = eventually(lambda: ended(expected), 150)
        good = scan(client, quick)
        (state,) = eventually(lambda: ended([good]), 150).values()
        for uid, came in expected.items():
            assert states[uid].is_failed()
            assert came in states[uid].message
            assert "Remedy: " in states[uid].message
            assert came in eventually(partial(log_of, states[uid].state_details.flow_run_id))
            assert_nothing_complete(client, uid)
        assert state.is_completed()
        assert [found.status for found in find_reconstructions(client, good)] == ["complete"]


def ended(uids):
    """Return the final state by scan, once every one's automatic flow run has ended."""
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[AUTOMATIC_TAG])))
    states = {flow_run.parameters["run_uid"]: flow_run.state for flow_run in found if flow_run.state.is_final()}
    return {uid: states[uid] for uid in uids} if set(uids) <= set(states) else None
