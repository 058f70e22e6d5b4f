"""Flow runs whose jobs are Slurm's: what Prefect shows of a job, and that each flow run has one, whatever happens."""

import os
import time
from contextlib import contextmanager

import numpy as np
import pytest
from failing_disk import fail, failing_disk
from flow_runs import log_of, worker
from held_flow_runs import Held, reap
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.states import Cancelling
from real_services import folder, hologram, services, shared_storage, take, tiled_client, tiled_server
from slurm_cluster import SCRIPTS, eventually, processes_of
from slurm_jobs import ranks_of, room, staged
from slurm_jobs import scheduler as slurm_of_sleepers

from bluesky_multislice.catalog import find_reconstructions
from bluesky_multislice.jobs import RecordState
from bluesky_multislice.jobs.schedulers import Allocation
from bluesky_multislice.recipe import Recipe
from flows.deploy import deploy

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]
__all__ = [
    "failing_disk",
    "folder",
    "hologram",
    "reap",
    "room",
    "services",
    "shared_storage",
    "take",
    "tiled_client",
    "tiled_server",
]


EPOCHS = 800
"""So many that a fit is still under way when the test has done to it what it wants."""


@pytest.fixture
def client(services, room, monkeypatch, request, tmp_path):
    """Prefect with a worker whose flows submit to the cluster, with lines of the site changed; no job is left."""
    site, changed = tmp_path / "site.toml", getattr(request, "param", "").splitlines()
    names = {line.partition(" =")[0] for line in changed}
    lines = (SCRIPTS / "two-nodes.toml").read_text().splitlines()
    site.write_text("\n".join([*changed, *(line for line in lines if line.partition(" =")[0] not in names)]))
    monkeypatch.setenv("MULTISLICE_SITE", str(site))
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
    assert word.startswith("CANCELLED")
    assert held.folder.cancelled.exists()
    record = held.folder.read_record()
    assert (record.state, record.name, record.job_id) == (RecordState.CANCELLED, str(held.id), job_id)
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
    assert held.folder.read_record().state == "published"
    assert not processes_of(held.folder.path)


@pytest.mark.matrix
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("client", ["ranks_per_node = 1\nmemory_gb = 2"], indirect=True)
def test_a_flow_run_ends_with_its_volume_whatever_befalls_its_job(client, cluster, take, room, tiled_client):
    """A rank killed, then its launcher; Slurm's controller restarted, an urgent job, a lost node, out of time twice."""
    recipe = Recipe(epochs=EPOCHS, ranks=2, held_back_every=4, checkpoint_every=1)
    held = Held(client, take(), recipe)
    eventually(lambda: newest_checkpoint(held.folder))

    for times in (1, 2):
        # Of the second node: the launcher, then the rank that it has forked.
        *_, launcher, rank = sorted(held.job(), key=lambda each: (each.environ()["SLURM_NODEID"], each.pid))
        (rank if times == 1 else launcher).kill()
        eventually(lambda times=times: f"it is started again, {times} of 5 times" in log_of(held.id))
        goes_on(held)

    # Held, so that it does not end while Slurm is away.
    for process in (job := held.job()):
        process.suspend()
    cluster.stop_controller()
    eventually(lambda: "Job not_visible (Slurm does not answer" in log_of(held.id))
    cluster.start_controller()
    for process in job:
        process.resume()
    goes_on(held)

    urgent, slurm = staged(room / "urgent", sleep_s=600), slurm_of_sleepers()
    job = slurm.submit(urgent, name="urgent", allocation=Allocation(nodes=2, cpus_per_task=4, partition="urgent"))
    ranks_of(urgent, 2)
    eventually(lambda: shown(client, held.id).startswith("Job pending ("))
    assert held.run.state.is_running()
    slurm.cancel(job)
    goes_on(held)

    with cluster.without(cluster.nodes[1]):
        eventually(lambda: "restarts 2)" in log_of(held.id))
    goes_on(held)

    for restarts in (3, 4):
        cluster.ask("scancel", "--batch", "--signal=USR1", held.folder.read_record().job_id)
        eventually(lambda restarts=restarts: f"restarts {restarts})" in log_of(held.id))
        goes_on(held)

    # What is left of the epochs takes a minute, and five on a busy machine.
    held.completes(480)
    (only,) = find_reconstructions(tiled_client, held.uid)
    reconstruction = tiled_client[only.path]
    provenance = reconstruction.metadata["provenance"]
    resumed = [each["epoch"] for each in provenance["machine"]["resumed"]]
    assert len(resumed) == 6
    assert resumed == sorted(resumed)
    assert provenance["machine"]["restarts"] == provenance["flow_run"]["job_restarts"] == 6
    assert provenance["flow_run"]["attempts"] == 1
    epochs = reconstruction["history"].read()["epoch"]
    np.testing.assert_array_equal(epochs, np.arange(1, len(epochs) + 1))
    eventually(lambda: [word for _, word in jobs_of(cluster, held)] == ["FAILED", "FAILED", "COMPLETED"])
    assert not held.folder.checkpoints.exists()
    eventually(lambda: not processes_of(held.folder.path))


SHORT = "memory_gb = 2\nwalltime_minutes = 1\nwarning_seconds = 30\nmost_restarts = 0\ndirectives = ['--exclusive']"


@pytest.mark.parametrize("client", [SHORT], indirect=True)
def test_how_a_job_ended_is_told_in_prefect(client, cluster, take, tiled_client):
    deaf, cancelled = Held(client, take()), Held(client, take())
    for held in (deaf, cancelled):
        held.hold()
    cluster.ask("scancel", cancelled.folder.read_record().job_id)
    eventually(lambda: cancelled.run.state.is_cancelled())
    lost = Held(client, take())
    lost.hold()
    job_id = lost.folder.read_record().job_id
    cluster.ask("scontrol", "update", f"jobid={job_id}", "requeue=0")
    node = cluster.ask("squeue", "--noheader", f"--jobs={job_id}", "--format=%N").strip()
    with cluster.without(node):
        eventually(lambda: lost.run.state.is_final())
    eventually(lambda: deaf.run.state.is_final())
    for held, name in ((cancelled, "Cancelled"), (lost, "NodeFailure"), (deaf, "TimedOut")):
        assert held.run.state.name == name
        assert held.folder.read_record().state == ("cancelled" if held is cancelled else "failed")
        assert len(jobs_of(cluster, held)) == 1
        assert not find_reconstructions(tiled_client, held.uid)
        eventually(lambda held=held: not processes_of(held.folder.path))


@pytest.fixture
def jobs_on_failing_disk(services, failing_disk, monkeypatch):
    """Job folders lie on a disk that fails."""
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(failing_disk))
    return failing_disk


@pytest.mark.usefixtures("room")
def test_a_disk_that_fails_under_a_job_is_told_in_prefect(jobs_on_failing_disk, client, cluster, take, tiled_client):
    held = Held(client, take(), Recipe(epochs=EPOCHS, ranks=1, held_back_every=0, checkpoint_every=1))
    eventually(lambda: newest_checkpoint(held.folder))
    os.sync()
    fail(jobs_on_failing_disk)
    eventually(lambda: held.run.state.is_final())
    assert held.run.state.is_failed()
    assert "Read-only file system" in held.run.state.message
    assert not cluster.ask("squeue", "--noheader")
    assert not find_reconstructions(tiled_client, held.uid)
    eventually(lambda: not processes_of(held.folder.path))


def goes_on(held):
    """Wait until the job has come further than it was."""
    former = newest_checkpoint(held.folder)
    eventually(lambda: newest_checkpoint(held.folder) > former + 3)


def newest_checkpoint(folder):
    """Epoch of the last checkpoint, 0 without one."""
    return max((int(path.name) for path in folder.checkpoints.glob("*") if path.name.isdigit()), default=0)
