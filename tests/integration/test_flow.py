"""The flow on real servers: Tiled, Prefect, RunEngine and torchrun, with good scans and cancellation."""

import os
from pathlib import Path

import psutil
from flow_runs import QUICK, eventually, log_of, run, worker
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.flow_engine import run_flow
from prefect.states import Cancelling

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.listener import automatic_key
from bluesky_multislice.recipe import Recipe, ScanValues
from bluesky_multislice.units import energy_ev_from_wavelength
from flows.reconstruct_scan import reconstruct_scan


def test_a_scan_becomes_a_volume_and_a_rerun_a_new_one(services, take, tiled_client):
    uid = take()
    state = run(uid)
    assert state.is_completed()
    (first,) = find_reconstructions(tiled_client, uid)
    verdict = tiled_client[first.path].metadata["figures"]["verdict"]
    assert state.message == f"Published at {first.path}; verdict: {verdict}"
    assert first.status == "complete"
    node = tiled_client[first.path]
    provenance = node.metadata["provenance"]
    assert provenance["recipe"] == QUICK.model_dump(mode="json")
    assert provenance["machine"]["ranks"] == 1
    assert set(provenance["seconds"]) == {"resolve", "plan", "stage", "reconstruct"}
    assert node["delta"].read().shape == (16, 16, 16)
    assert run(uid).is_completed()
    second = find_reconstructions(tiled_client, uid)[-1]
    assert tiled_client[second.path].metadata["reran"] == first.path


def test_progress_and_figures_stand_in_prefect(services, take):
    uid = take()
    flow_run_id = run(uid).state_details.flow_run_id
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
    artifacts = {artifact.type: artifact for artifact in found}
    assert artifacts["progress"].key == f"progress-{uid}"
    assert artifacts["progress"].data == 100
    assert artifacts["progress"].description.startswith("Epoch 2 of 2: loss ")
    assert "done by" not in artifacts["progress"].description
    assert "held back r factor" in artifacts["markdown"].data
    assert "Verdict: **" in artifacts["markdown"].data
    for nothing in ("None", "{}", ""):
        assert f"| {nothing} |\n" not in artifacts["markdown"].data.split("| --- | --- |")[1]
    log = eventually(lambda: "Published at" in (text := log_of(flow_run_id)) and text)
    for epoch in (1, 2):
        assert f"Epoch {epoch} of 2: loss " in log
    assert "validation loss" in log


def test_the_same_event_twice_makes_one_volume(deployment, services, take, tiled_client):
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
    assert state.message == f"Already published at {only.path}"


def test_the_recipe_can_give_a_missing_value(services, take, hologram):
    uid = take(energy_ev=None)
    energy_ev = energy_ev_from_wavelength(hologram.geometry.beam.wavelength_m)
    recipe = QUICK.model_copy(update={"scan": ScanValues(energy_ev=energy_ev)})
    assert run(uid, recipe).is_completed()


def test_cancelling_in_prefect_ends_the_ranks(deployment, services, take):
    uid = take()
    recipe = Recipe(epochs=10_000, ranks=2, held_back_every=0)
    with worker(), get_client(sync_client=True) as client:
        flow_run = client.create_flow_run_from_deployment(
            deployment.id, parameters={"run_uid": uid, "recipe": recipe.model_dump(mode="json")}
        )
        eventually(lambda: len(ranks_of(flow_run)) == 3)
        progress = Path(os.environ["MULTISLICE_JOBS_ROOT"]) / uid / str(flow_run.id) / "progress.jsonl"
        eventually(lambda: progress.exists() and progress.stat().st_size)
        client.set_flow_run_state(flow_run.id, Cancelling(), force=True)
        eventually(lambda: client.read_flow_run(flow_run.id).state.is_cancelled())
        eventually(lambda: not ranks_of(flow_run))


def ranks_of(flow_run):
    """torchrun and its ranks: all name the job folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        if "bluesky_multislice.jobs.job" in words and words[-1].endswith(str(flow_run.id)):
            found.append(process.pid)
    return found
