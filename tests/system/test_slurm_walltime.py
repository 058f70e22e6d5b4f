"""A job whose time is up: warned, it leaves a checkpoint, is requeued and goes on, as often as it may and can."""

import pytest
from slurm_cluster import eventually
from slurm_jobs import ONE, ended, ranks_of, room, scheduler, staged

from bluesky_multislice.jobs.schedulers import Allocation, JobState, job_error, may_resume

pytestmark = pytest.mark.system
__all__ = ["room"]


def warn(cluster, folder, job):
    """Warn the batch script of a running job, as Slurm does before the walltime."""
    for path in folder.path.glob("rank-*.json"):
        path.unlink()
    ranks_of(folder, 1)
    cluster.ask("scancel", "--batch", "--signal=USR1", job.id)


def test_restarts_are_bounded(room, cluster):
    slurm, folder = scheduler(most_restarts=1), staged(room / "job", stops=9)
    job = slurm.submit(folder, name="bounded", allocation=ONE)
    warn(cluster, folder, job)
    eventually(lambda: slurm.status(job).restarts == 1)
    warn(cluster, folder, job)
    status = ended(slurm, job)
    assert (status.state, status.restarts) == (JobState.INTERRUPTED, 1)
    assert may_resume(job, status)
    assert "wrote a checkpoint at epoch 2" in str(job_error(slurm, job, status))


def test_a_job_that_comes_no_further_is_not_requeued(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", stops=9, stands_still=True)
    job = slurm.submit(folder, name="stands-still", allocation=ONE)
    warn(cluster, folder, job)
    status = ended(slurm, job)
    assert (status.state, status.restarts) == (JobState.INTERRUPTED, 0)


def test_a_stop_that_somebody_asks_for_is_no_reason_to_requeue(room):
    slurm, folder = scheduler(), staged(room / "job", stops=9)
    job = slurm.submit(folder, name="stopped", allocation=ONE)
    ranks_of(folder, 1)
    folder.request_stop()
    assert ended(slurm, job).state is JobState.INTERRUPTED


def test_slurm_warns_before_each_walltime_and_ends_who_does_not_listen(room):
    # Slurm looks every 30 s for what is due until it looks again: it warns 10 to 40 s after the start. With 45 s it may
    # warn at once, a batch script that does not stand yet.
    slurm = scheduler(warning_seconds=20)
    minute = Allocation(walltime_minutes=1, memory_gb=1, cpus_per_task=1)
    listens, deaf = staged(room / "listens", stops=2, result=True), staged(room / "deaf", sleep_s=600, deaf=True)
    first = slurm.submit(listens, name="listens", allocation=minute)
    second = slurm.submit(deaf, name="deaf", allocation=minute)
    status = ended(slurm, second)
    assert status.state is JobState.TIMEOUT
    assert may_resume(second, status)
    status = ended(slurm, first)
    assert (status.state, status.restarts) == (JobState.COMPLETED, 2)
