"""The life of a job under a real Slurm: what it is called at every turn, and why."""

import shlex
import subprocess

import pytest
from slurm_cluster import eventually
from slurm_jobs import FOUR, ONE, ended, ranks_of, room, scheduler, staged

from bluesky_multislice.errors import JobError, ScanError, SchedulerError
from bluesky_multislice.jobs.schedulers import Allocation, Job, JobState, may_resume, monitor_job, run_and_wait

pytestmark = pytest.mark.system
__all__ = ["room"]


def test_a_job_on_two_nodes_runs_to_its_result(room, cluster):
    folder, records, states = staged(room / "job", result=True), [], []
    slurm = scheduler()
    run_and_wait(slurm, folder, name="two-nodes", allocation=FOUR, on_progress=records.append, on_status=states.append)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert states[-1].state is JobState.COMPLETED
    assert {status.state for status in states} <= {
        JobState.PENDING,
        JobState.RUNNING,
        JobState.NOT_VISIBLE,
        JobState.COMPLETED,
    }
    ranks = ranks_of(folder, 4)
    assert {rank["world"] for rank in ranks} == {"4"}
    assert {rank["threads"] for rank in ranks} == {"1"}
    assert {rank["environment"]["SLURMD_NODENAME"] for rank in ranks[:2]} == {cluster.nodes[0]}
    assert {rank["environment"]["SLURMD_NODENAME"] for rank in ranks[2:]} == {cluster.nodes[1]}
    job = Job(folder.read_record().job_id, folder)
    # Where one node's torchrun ends before the other's, that one says so at length.
    assert "rank 3 is here" in slurm.tail(job, 200)
    assert (folder.path / "exit-status").read_text() == "0\n"


def test_gpus_are_asked_for(room, cluster):
    folder = staged(room / "job", result=True)
    allocation = Allocation(ranks_per_node=2, gpus_per_node=2, memory_gb=1, cpus_per_task=2)
    run_and_wait(scheduler(), folder, name="gpus", allocation=allocation, on_progress=lambda record: None)
    assert {rank["environment"]["CUDA_VISIBLE_DEVICES"] for rank in ranks_of(folder, 2)} == {"0,1"}


def test_a_failed_job_raises_the_error_it_left(room):
    error = {"kind": "ScanError", "rule": "The rule.", "got": "something else.", "remedy": "do this."}
    folder = staged(room / "job", fail=True, error=error)
    with pytest.raises(ScanError, match=r"The rule\. Got: something else\. Remedy: do this\."):
        run_and_wait(scheduler(), folder, name="fails", allocation=ONE, on_progress=lambda record: None)
    job = Job(folder.read_record().job_id, folder)
    status = scheduler().status(job)
    assert (status.state, status.exit_detail) == (JobState.FAILED, "exit status 1")
    assert not may_resume(job, status)


def test_a_job_without_a_result_has_failed_and_shows_its_log(room):
    folder = staged(room / "job")
    with pytest.raises(JobError, match=r"(?s)ended without a result.*rank 0 is here"):
        run_and_wait(scheduler(), folder, name="nothing", allocation=ONE, on_progress=lambda record: None)


def test_a_waiting_job_says_why_and_is_cancelled_within_seconds(room):
    slurm = scheduler(directives=("--begin=now+1hour",))
    job = slurm.submit(staged(room / "job"), name="waits", allocation=ONE)
    status = eventually(lambda: (status := slurm.status(job)).reason == "BeginTime" and status)
    assert status.state is JobState.PENDING
    assert slurm.active_jobs() == {"waits": job.id}
    slurm.cancel(job)
    assert slurm.status(job).state is JobState.CANCELLED
    assert job.folder.cancelled.exists()
    assert slurm.active_jobs() == {}


def test_cancelling_ends_the_ranks(room):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=600)
    job = slurm.submit(folder, name="runs", allocation=ONE)
    ranks_of(folder, 1)
    assert slurm.status(job).state is JobState.RUNNING
    slurm.cancel(job)
    status = slurm.status(job)
    assert status.state is JobState.CANCELLED
    assert not may_resume(job, status)


def test_scancel_from_outside_is_seen(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=600)
    job = slurm.submit(folder, name="runs", allocation=ONE)
    ranks_of(folder, 1)
    cluster.ask("scancel", job.id)
    assert monitor_job(slurm, job, on_progress=lambda record: None).state is JobState.CANCELLED


def test_a_job_that_needs_too_much_memory_says_so(room, cluster):
    if not cluster.has_control_groups:
        pytest.skip("memory limits need control groups of version 1")
    slurm, folder = scheduler(), staged(room / "job", hold_mb=3000)
    status = ended(slurm, job := slurm.submit(folder, name="greedy", allocation=ONE))
    assert status.state is JobState.OUT_OF_MEMORY
    assert not may_resume(job, status)


@pytest.mark.parametrize(
    "impossible",
    [
        {"gpus_per_node": 64},
        {"nodes": 9},
        {"partition": "none"},
        {"memory_gb": 9999},
        {"walltime_minutes": 999},
        {"account": "none"},
        {"qos": "none"},
        {"constraint": "none"},
    ],
)
def test_an_impossible_request_is_refused_with_slurms_words(room, impossible):
    folder = staged(room / "job")
    with pytest.raises(SchedulerError, match=r"Slurm must accept the job\. Got: .*(sbatch: error|Partition)"):
        scheduler().submit(folder, name="impossible", allocation=Allocation(**impossible))
    assert not folder.read_record().job_id


def test_a_job_gets_its_account_quality_of_service_and_nodes(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", result=True)
    chosen = {"account": "beamline", "qos": "live", "constraint": "fast"}
    job = slurm.submit(folder, name="chosen", allocation=ONE.model_copy(update=chosen))
    assert ended(slurm, job).state is JobState.COMPLETED
    assert ranks_of(folder, 1)[0]["environment"]["SLURMD_NODENAME"] == cluster.nodes[0]
    asked = ("sacct", "--noheader", "--allocations", "--parsable2", f"--jobs={job.id}", "-o", "Account,QOS,Constraints")
    eventually(lambda: cluster.ask(*asked).strip() == "beamline|live|fast")


def test_jobs_wait_for_what_their_quality_of_service_allows_and_live_ones_go_first(room, cluster):
    slurm, whole = scheduler(), ONE.model_copy(update={"nodes": 2, "cpus_per_task": 4})
    first = slurm.submit(
        staged(room / "first", sleep_s=600), name="first", allocation=ONE.model_copy(update={"qos": "rerun"})
    )
    second = slurm.submit(staged(room / "second"), name="second", allocation=ONE.model_copy(update={"qos": "rerun"}))
    eventually(lambda: slurm.status(second).reason == "QOSMaxJobsPerUserLimit")
    ranks_of(first.folder, 1)
    normal = slurm.submit(staged(room / "normal", sleep_s=600), name="normal", allocation=whole)
    live = slurm.submit(
        staged(room / "live", sleep_s=600), name="live", allocation=whole.model_copy(update={"qos": "live"})
    )
    slurm.cancel(second)
    slurm.cancel(first)
    ranks_of(live.folder, 2)
    assert slurm.status(normal).state is JobState.PENDING
    slurm.cancel(normal)
    slurm.cancel(live)


def test_a_node_that_fails_ends_a_job_that_must_not_be_requeued(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=600)
    job = slurm.submit(folder, name="once", allocation=ONE)
    node = ranks_of(folder, 1)[0]["environment"]["SLURMD_NODENAME"]
    cluster.ask("scontrol", "update", f"jobid={job.id}", "requeue=0")
    with cluster.without(node):
        status = ended(slurm, job)
    assert status.state is JobState.NODE_FAILURE
    assert may_resume(job, status)


def test_a_preempted_job_that_must_not_be_requeued(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=600)
    job = slurm.submit(folder, name="gives-way", allocation=Allocation(nodes=2, cpus_per_task=4, memory_gb=1))
    ranks_of(folder, 2)
    cluster.ask("scontrol", "update", f"jobid={job.id}", "requeue=0")
    urgent = staged(room / "urgent", sleep_s=600)
    first = slurm.submit(urgent, name="urgent", allocation=Allocation(nodes=2, cpus_per_task=4, partition="urgent"))
    ranks_of(urgent, 2)
    status = slurm.status(job)
    assert status.state is JobState.PREEMPTED
    assert may_resume(job, status)
    slurm.cancel(first)


def test_the_printed_command_starts_the_job_by_hand(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", result=True)
    first = slurm.submit(folder, name="by-hand", allocation=ONE)
    assert ended(slurm, first).state is JobState.COMPLETED
    folder.result.unlink()
    command = slurm.manual_command(folder, name="by-hand", allocation=ONE)
    said = subprocess.run(shlex.split(command), env=cluster.environment, capture_output=True, text=True, check=True)
    second = Job(said.stdout.split()[-1], folder)
    assert ended(slurm, second).state is JobState.COMPLETED
    assert folder.read_record().job_id == first.id
