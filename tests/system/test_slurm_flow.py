"""Flow runs whose jobs are Slurm's: what Prefect shows of a job, and that each flow run has one, whatever happens."""

import time
from contextlib import contextmanager

import pytest
from flow_runs import log_of, worker
from held_flow_runs import Held, reap
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import Cancelling
from real_services import folder, hologram, services, shared_storage, take, tiled_client, tiled_server
from slurm_cluster import SCRIPTS, eventually, processes_of
from slurm_jobs import room

from bluesky_multislice.catalog import find_reconstructions
from flows.deploy import deploy
from flows.job_record import read_outcome

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
__all__ = ["folder", "hologram", "reap", "room", "services", "shared_storage", "take", "tiled_client", "tiled_server"]


@pytest.fixture
def client(services, room, monkeypatch):
    """Prefect with a worker whose flows submit to the cluster; no job is left in the end."""
    monkeypatch.setenv("MULTISLICE_SITE", str(SCRIPTS / "two-nodes.toml"))
    deploy(jobs=9)
    with worker(), get_client(sync_client=True) as client:
        yield client


def shown(client, flow_run_id):
    """What the progress bar of a flow run says in the Prefect page."""
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
    )
    return next((artifact.description for artifact in found if artifact.type == "progress"), "")


def jobs_of(cluster, held):
    """All jobs of a flow run that Slurm's accounting knows, and how they are."""
    lines = cluster.ask("sacct", "--noheader", "--allocations", "--parsable2", f"--name={held.id}", "-o", "JobID,State")
    return [line.split("|") for line in lines.splitlines()]


@contextmanager
def partition_down(cluster):
    """Jobs are accepted, and wait."""
    cluster.ask("scontrol", "update", "partitionname=gpu", "state=down")
    try:
        yield
    finally:
        cluster.ask("scontrol", "update", "partitionname=gpu", "state=up")


def test_a_flow_run_tells_why_its_job_waits_and_takes_it_along_when_it_is_cancelled(
    client, cluster, take, tiled_client
):
    with partition_down(cluster):
        held = Held(client, take())
        eventually(lambda: shown(client, held.id) == "Job pending (PartitionDown)")
        eventually(lambda: "Job pending (PartitionDown)" in log_of(held.id))
        began = time.monotonic()
        client.set_flow_run_state(held.id, Cancelling())
        eventually(lambda: not cluster.ask("squeue", "--noheader"))
        assert time.monotonic() - began < 10  # less than one, also on a busy machine
        eventually(lambda: held.run.state.is_cancelled())
    ((job_id, word),) = eventually(lambda: [job for job in jobs_of(cluster, held) if job[1] != "PENDING"])
    assert held.folder.read_submission() == {"name": str(held.id), "job_id": job_id}
    assert word.startswith("CANCELLED")
    assert held.folder.cancelled.exists()
    assert read_outcome(held.folder).state == "cancelled"
    assert not find_reconstructions(tiled_client, held.uid)


def test_the_job_of_a_flow_that_is_killed_is_adopted_and_ends_as_a_volume(client, cluster, take, reap, tiled_client):
    held = Held(client, take())
    held.hold()
    running = held.job()
    held.kill_flow()
    held.is_reported_as_crashed()
    assert reap() == {held.id: "run again"}
    held.follows_again(2)
    assert held.job() == running
    held.release()
    held.completes()
    (only,) = find_reconstructions(tiled_client, held.uid)
    provenance = tiled_client[only.path].metadata["provenance"]
    assert tiled_client[only.path]["delta"].read().shape == (16, 16, 16)
    ((job_id, word),) = eventually(lambda: [job for job in jobs_of(cluster, held) if job[1] != "RUNNING"])
    assert word == "COMPLETED"
    assert (provenance["machine"]["slurm_job"], provenance["machine"]["restarts"]) == (job_id, 0)
    assert (provenance["flow_run"]["attempts"], provenance["flow_run"]["job_restarts"]) == (2, 0)
    assert read_outcome(held.folder).state == "published"
    assert not processes_of(held.folder.path)
