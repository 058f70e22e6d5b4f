"""What goes wrong around a job, with the real thing: nothing is left behind, nothing runs twice, the state is true."""

import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from slurm_cluster import eventually, running_cluster
from slurm_jobs import GRACE_S, ONE, ended, ranks_of, room, scheduler, site, staged

from bluesky_multislice.errors import JobError, SchedulerError
from bluesky_multislice.jobs import JobFolder, JobRecord, RecordState
from bluesky_multislice.jobs.schedulers import (
    Allocation,
    Job,
    JobState,
    job_error,
    may_resume,
    submit_once,
    submit_or_resume,
)

pytestmark = pytest.mark.system
__all__ = ["room"]

DIES_AFTER_SBATCH = """
import os, signal, sys
from pathlib import Path
from bluesky_multislice.jobs.job_folder import JobFolder
from slurm_jobs import ONE, scheduler

class Folder(JobFolder):
    def write_submission(self, **submission):
        os.kill(os.getpid(), signal.SIGKILL)

scheduler().submit(Folder(Path(sys.argv[1])), name="orphan", allocation=ONE)
"""


@pytest.mark.parametrize(("victim", "words"), [("pid", "SIGKILL"), ("launcher", "Killed")])
def test_a_killed_process_ends_its_job_which_may_go_on(room, victim, words):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=600)
    job = slurm.submit(folder, name="killed", allocation=Allocation(nodes=2, ranks_per_node=1, memory_gb=1))
    os.kill(ranks_of(folder, 2)[1][victim], signal.SIGKILL)
    status = ended(slurm, job)
    assert status.state is JobState.FAILED
    assert may_resume(job, status)
    assert words in str(job_error(slurm, job, status))


@pytest.mark.parametrize("order", [{"sleep_s": 600}, {"result": True}])
def test_the_job_of_a_killed_submitter_is_adopted_and_not_submitted_again(room, cluster, order):
    folder = staged(room / "job", **order)
    done = subprocess.run(
        [sys.executable, "-c", DIES_AFTER_SBATCH, folder.path],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not folder.read_record().job_id
    (job_id,) = scheduler().active_jobs().values()
    ranks_of(folder, 1)
    if "result" in order:
        assert ended(scheduler(), Job(job_id, folder)).state is JobState.COMPLETED
    slurm = scheduler()
    job = submit_once(slurm, folder, name="orphan", allocation=ONE)
    assert job.id == job_id
    assert folder.read_record() == JobRecord(RecordState.SUBMITTED, "orphan", job_id)
    assert scheduler().adopt(folder, name="another") is None
    assert scheduler().adopt(staged(room / "elsewhere"), name="orphan") is None
    slurm.cancel(job)


def test_a_job_outlives_a_restart_of_slurms_controller(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", sleep_s=15, result=True)
    job = slurm.submit(folder, name="outlives", allocation=ONE)
    ranks_of(folder, 1)
    cluster.stop_controller()
    status = slurm.status(job)
    assert status.state is JobState.NOT_VISIBLE
    assert "Slurm does not answer" in status.reason
    cluster.start_controller()
    assert ended(slurm, job).state is JobState.COMPLETED


def test_a_submission_waits_for_slurms_controller_and_comes_once(room, cluster):
    slurm, folder = scheduler(), staged(room / "job", result=True)
    cluster.stop_controller()
    later = threading.Timer(3, cluster.start_controller)
    later.start()
    job = slurm.submit(folder, name="patient", allocation=ONE)
    later.join()
    assert slurm.active_jobs() == {"patient": job.id}
    assert ended(slurm, job).state is JobState.COMPLETED


def test_a_submission_gives_up_after_a_while(room, cluster):
    slurm, folder = scheduler(), staged(room / "job")
    slurm = type(slurm)(site(), module="sleeping_job", patience_s=0)
    cluster.stop_controller()
    try:
        with pytest.raises(SchedulerError, match="Slurm must answer"):
            slurm.submit(folder, name="impatient", allocation=ONE)
    finally:
        cluster.start_controller()


def test_accounting_knows_what_the_controller_has_forgotten(room, cluster):
    slurm = scheduler()
    good, bad = staged(room / "good", result=True), staged(room / "bad", fail=True)
    jobs = [slurm.submit(folder, name=folder.path.name, allocation=ONE) for folder in (good, bad)]
    assert [ended(slurm, job).state for job in jobs] == [JobState.COMPLETED, JobState.FAILED]
    eventually(lambda: "FAILED" in cluster.ask("sacct", "-n", "-X", "-j", jobs[1].id, "-o", "State"))
    cluster.stop_controller()
    cluster.start_controller("-c")  # without the state that it saved
    for folder in (good, bad):
        folder.record.unlink()
        (folder.path / "exit-status").unlink()
    assert scheduler().status(jobs[0]).state is JobState.COMPLETED
    status = scheduler().status(jobs[1])
    assert (status.state, status.exit_detail) == (JobState.FAILED, "exit status 1")
    assert scheduler().adopt(bad, name="bad") == jobs[1]


def test_without_accounting_the_folder_tells_how_a_forgotten_job_ended(tmp_path, monkeypatch):
    with running_cluster("--without-accounting") as bare:
        monkeypatch.setenv("SLURM_CONF", str(bare.root / "slurm.conf"))
        slurm = scheduler()
        good, bad = staged(tmp_path / "good", result=True), staged(tmp_path / "bad", fail=True)
        jobs = [slurm.submit(folder, name=folder.path.name, allocation=ONE) for folder in (good, bad)]
        assert [ended(slurm, job).state for job in jobs] == [JobState.COMPLETED, JobState.FAILED]
        eventually(lambda: not bare.ask("squeue", "--noheader", "--states=all"))
        assert scheduler().status(jobs[0]).state is JobState.COMPLETED
        status = scheduler().status(jobs[1])
        assert (status.state, status.exit_detail) == (JobState.FAILED, "exit status 1")
        bad.record.unlink()
        assert scheduler().adopt(bad, name="bad") is None
        (bad.path / "exit-status").unlink()
        unknown = scheduler()
        assert unknown.status(jobs[1]).state is JobState.NOT_VISIBLE
        status = eventually(lambda: (status := unknown.status(jobs[1])).ended and status, limit_s=3 * GRACE_S)
        assert (status.state, status.reason) == (JobState.FAILED, "Slurm does not know the job")


@contextmanager
def small_storage(path, options):
    """A file system of 64 kB at ``path``."""
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", path], check=True)
    try:
        yield lambda: subprocess.run(["mount", "-o", f"remount,{options}", path], check=True)
    finally:
        subprocess.run(["umount", path], check=True)


def fill(path):
    """Leave no byte free."""
    with (path / "ballast").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass


def test_a_read_only_folder_is_refused(room, cluster):
    with small_storage(room / "storage", "ro") as make_read_only:
        folder = staged(room / "storage" / "job")
        make_read_only()
        with pytest.raises(SchedulerError, match="must be writable"):
            scheduler().submit(folder, name="read-only", allocation=ONE)
        with pytest.raises(JobError, match="must be writable"):
            JobFolder(room / "storage" / "another").create()
    assert scheduler().active_jobs() == {}


def test_a_full_folder_is_refused(room, cluster):
    with small_storage(room / "storage", "rw"):
        folder = staged(room / "storage" / "job")
        fill(room / "storage")
        with pytest.raises(SchedulerError, match="must be writable"):
            scheduler().submit(folder, name="full", allocation=ONE)
    assert scheduler().active_jobs() == {}


def test_a_folder_that_fills_up_fails_the_job(room, cluster):
    with small_storage(room / "storage", "rw"):
        slurm, folder = scheduler(), staged(room / "storage" / "job", sleep_s=3, result=True)
        job = slurm.submit(folder, name="fills", allocation=ONE)
        ranks_of(folder, 1)
        fill(room / "storage")
        assert ended(slurm, job).state is JobState.FAILED
        eventually(lambda: not [each for each in psutil.process_iter() if works_in(each, folder.path)])


def works_in(process, path):
    try:
        return process.cwd() == str(path)
    except psutil.Error:
        return False


def test_a_job_starts_again_only_where_its_folder_is_seen(room):
    slurm, folder = scheduler(), staged(room / "job")
    folder.job.unlink()
    status = ended(slurm, job := slurm.submit(folder, name="unseen", allocation=ONE))
    assert status.state is JobState.FAILED
    assert "the nodes do not see the job folder" in slurm.tail(job, 5)


def test_started_again_a_job_forgets_its_former_end(room):
    slurm, folder = scheduler(), staged(room / "job", fail=True)
    first = slurm.submit(folder, name="again", allocation=ONE)
    assert ended(slurm, first).state is JobState.FAILED
    staged(room / "job", result=True)
    second = submit_or_resume(slurm, folder, name="again", allocation=ONE)
    assert int(second.id) > int(first.id)
    assert ended(slurm, second).state is JobState.COMPLETED
    assert scheduler().adopt(folder, name="again") == second
