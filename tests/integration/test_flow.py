"""The flow on real servers: Tiled, Prefect, RunEngine and torchrun, with good scans, bad scans and cancellation."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.flow_engine import run_flow
from prefect.settings import get_current_settings
from prefect.states import Cancelling

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry
from bluesky_multislice.listener import automatic_key
from bluesky_multislice.recipe import Recipe, ScanValues
from bluesky_multislice.settings import DEPLOYMENT
from bluesky_multislice.simulation.beamline import run_scan
from bluesky_multislice.simulation.phantoms import Sample, spheres_and_shells
from flows.reconstruct_scan import reconstruct_scan

ROOT = Path(__file__).parents[2]
QUICK = Recipe(epochs=2, ranks=2, held_back_every=4)
PIXEL_M = 1e-9


@pytest.fixture(scope="module")
def sample():
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(PIXEL_M),
        detector=Detector((16, 16), (PIXEL_M, PIXEL_M), "near_field"),
        distance_m=np.full(8, 30e-9),
        angle_rad=np.arange(8) * np.pi / 8,
        position_m=np.zeros((8, 2)),
    )
    delta = spheres_and_shells(16, delta=8e-3, count=6, seed=1)
    return Sample(delta, delta * 0.05, PIXEL_M, geometry, None, photons=1e5)


@pytest.fixture(scope="module")
def frames(sample):
    return sample.frames().astype(np.float32)


@pytest.fixture
def services(prefect_server, tiled_server, shared_storage, monkeypatch):
    uri, _, key = tiled_server.uri.partition("?api_key=")
    monkeypatch.setenv("MULTISLICE_TILED_URI", uri)
    monkeypatch.setenv("TILED_API_KEY", key)
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(shared_storage / "jobs"))


@pytest.fixture
def take(tiled_client, folder, sample, frames):
    def take(stored=frames, **metadata):
        return run_scan(tiled_client, stored, sample.geometry, folder=folder, metadata=metadata)

    return take


@pytest.fixture
def deployment(services):
    """The deployment as a facility makes it, from deploy/prefect.yaml."""
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name="multislice", type="process"))
        except ObjectAlreadyExists:
            pass
    prefect("--no-prompt", "deploy", "--prefect-file", str(ROOT / "deploy" / "prefect.yaml"), "--all").wait(120)
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(DEPLOYMENT)


def prefect(*words):
    environment = os.environ | {"PREFECT_API_URL": str(get_current_settings().api.url)}
    return subprocess.Popen([sys.executable, "-m", "prefect", *words], env=environment, cwd=ROOT)


def run(run_uid, recipe=QUICK):
    return reconstruct_scan(run_uid, recipe, return_state=True)


def test_a_scan_becomes_a_volume_and_a_rerun_a_new_one(services, take, tiled_client):
    uid = take()
    state = run(uid)
    assert state.is_completed()
    (first,) = find_reconstructions(tiled_client, uid)
    assert state.message == f"Published at {first.path}"
    assert first.status == "complete"
    node = tiled_client[first.path]
    provenance = node.metadata["provenance"]
    assert provenance["recipe"] == QUICK.model_dump(mode="json")
    assert provenance["machine"]["ranks"] == 2
    assert set(provenance["seconds"]) == {"resolve", "plan", "stage", "reconstruct"}
    assert node["delta"].read().shape == (16, 16, 16)
    assert run(uid).is_completed()
    second = find_reconstructions(tiled_client, uid)[-1]
    assert tiled_client[second.path].metadata["reran"] == first.path


def test_the_same_event_twice_makes_one_volume(deployment, take, tiled_client):
    uid = take()
    parameters = {"run_uid": uid, "recipe": QUICK.model_dump(mode="json")}
    assert run(uid).is_completed()
    with get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(
            deployment.id, parameters=parameters, idempotency_key=automatic_key(uid, QUICK.digest())
        )
    parameters = {"run_uid": uid, "recipe": QUICK}
    state = run_flow(reconstruct_scan, flow_run=flow_run, parameters=parameters, return_type="state")
    (only,) = find_reconstructions(tiled_client, uid)
    assert state.message == f"Was already at {only.path}"


@pytest.mark.parametrize(
    ("missing", "error"),
    [("energy_ev", "energy"), ("detector_distance_m", "distance"), ("detector_pixel_size_m", "pixel")],
)
def test_a_missing_value_is_named_in_the_state(services, take, tiled_client, missing, error):
    uid = take(**{missing: None})
    state = run(uid)
    assert state.is_failed()
    assert "ScanError" in state.message
    assert error in state.message
    assert missing in state.message
    assert "Remedy" in state.message
    assert not find_reconstructions(tiled_client, uid)


def test_the_recipe_can_give_a_missing_value(services, take):
    uid = take(energy_ev=None)
    recipe = QUICK.model_copy(update={"scan": ScanValues(energy_ev=1239.841984)})
    assert run(uid, recipe).is_completed()


@pytest.mark.parametrize(("value", "word"), [(np.nan, "NaN"), (-5.0, "negative")])
def test_bad_frames_stop_the_job_with_a_clear_error(services, take, frames, tiled_client, value, word):
    broken = frames.copy()
    broken[5, 3, 3] = value
    uid = take(broken)
    state = run(uid)
    assert state.is_failed()
    assert "FramesError" in state.message
    assert word in state.message
    assert not [found for found in find_reconstructions(tiled_client, uid) if found.status == "complete"]


def test_an_unknown_run_is_named(services):
    state = run("no-such-run")
    assert state.is_failed()
    assert "CatalogError" in state.message
    assert "no-such-run" in state.message


def test_without_its_environment_the_flow_says_what_to_set(services, monkeypatch):
    monkeypatch.delenv("MULTISLICE_JOBS_ROOT")
    state = run("any")
    assert state.is_failed()
    assert "MULTISLICE_JOBS_ROOT" in state.message


def test_cancelling_in_prefect_ends_the_ranks(deployment, take):
    uid = take()
    recipe = Recipe(epochs=10_000, ranks=2, held_back_every=0)
    worker = prefect("worker", "start", "--pool", "multislice", "--type", "process")
    try:
        with get_client(sync_client=True) as client:
            flow_run = client.create_flow_run_from_deployment(
                deployment.id, parameters={"run_uid": uid, "recipe": recipe.model_dump(mode="json")}
            )
            eventually(lambda: len(ranks_of(flow_run)) == 3)
            progress = Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid / str(flow_run.id) / "progress.jsonl"
            eventually(lambda: progress.exists() and progress.stat().st_size)
            client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
            eventually(lambda: client.read_flow_run(flow_run.id).state.is_cancelled())
            eventually(lambda: not ranks_of(flow_run))
    finally:
        worker.terminate()
        worker.wait(60)


def ranks_of(flow_run):
    """torchrun and its ranks: all name the job folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if "bluesky_multislice.job" in words and words[-1].endswith(str(flow_run.id)):
            found.append(process.pid)
    return found


def eventually(condition, limit_s=90):
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)
