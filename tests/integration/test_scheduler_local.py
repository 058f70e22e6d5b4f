"""The local scheduler with real ranks: states, errors, and above all no rank that outlives its job."""

import json
import os
import signal
import time

import psutil
import pytest

from bluesky_multislice.errors import JobError, PlanError, ScanError
from bluesky_multislice.jobs import JobFolder, write_json
from bluesky_multislice.jobs.schedulers import Allocation, Job, JobState, LocalScheduler, SiteProfile, run_and_wait

RANKS = 2
TWO, ONE = Allocation(ranks_per_node=RANKS), Allocation()


@pytest.fixture
def stage(tmp_path):
    def make(**order):
        folder = JobFolder(tmp_path / "job").create()
        write_json(folder.job, order)
        return folder

    return make


@pytest.fixture
def scheduler(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return LocalScheduler(module="sleeping_job", grace_s=5, poll_s=0.1)


def wait_for_ranks(folder, limit_s=60):
    end = time.monotonic() + limit_s
    paths = [folder.path / f"rank-{rank}.json" for rank in range(RANKS)]
    while not all(path.exists() and path.stat().st_size for path in paths):
        assert time.monotonic() < end, "the ranks did not start"
        time.sleep(0.1)
    return [json.loads(path.read_text()) for path in paths]


def assert_gone(ranks):
    assert not [rank["pid"] for rank in ranks if psutil.pid_exists(rank["pid"])]


def test_a_job_runs_to_its_result_and_reports_every_epoch(scheduler, stage):
    folder, records = stage(result=True), []
    run_and_wait(scheduler, folder, name="me", allocation=TWO, on_progress=records.append)
    assert [record["epoch"] for record in records] == [0, 1, 2]
    assert scheduler.status(Job(str(folder.path), folder)).state is JobState.COMPLETED
    assert LocalScheduler(module="sleeping_job").status(Job(str(folder.path), folder)).state is JobState.COMPLETED
    ranks = wait_for_ranks(folder)
    assert {rank["threads"] for rank in ranks} == {str(max(1, len(os.sched_getaffinity(0)) // RANKS))}
    # They sleep soon where another program has the core of one of them.
    assert {rank["environment"]["GOMP_SPINCOUNT"] for rank in ranks} == {"1000"}
    assert {rank["world"] for rank in ranks} == {str(RANKS)}
    assert "rank 0 is here" in scheduler.tail(Job(str(folder.path), folder), 5)


def threads_of(scheduler, stage, allocation, ranks):
    folder = stage(result=True)
    run_and_wait(scheduler, folder, name="me", allocation=allocation, on_progress=lambda record: None)
    return {json.loads((folder.path / f"rank-{rank}.json").read_text())["threads"] for rank in range(ranks)}


def test_one_rank_has_all_cores(scheduler, stage):
    assert threads_of(scheduler, stage, ONE, 1) == {str(len(os.sched_getaffinity(0)))}


def test_threads_are_those_of_the_environment_and_before_it_of_the_site(scheduler, stage, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_of(scheduler, stage, TWO, RANKS) == {"3"}
    site = LocalScheduler(SiteProfile(environment={"OMP_NUM_THREADS": "5"}), module="sleeping_job", poll_s=0.1)
    assert threads_of(site, stage, ONE, 1) == {"5"}


def test_no_thread_is_refused_before_a_job_starts(scheduler, stage, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "0")
    with pytest.raises(PlanError, match="one thread or more"):
        threads_of(scheduler, stage, ONE, 1)


def test_a_failed_job_raises_the_error_it_left(scheduler, stage):
    error = {"kind": "ScanError", "rule": "The rule.", "got": "something else.", "remedy": "do this."}
    folder = stage(fail=True, error=error)
    with pytest.raises(ScanError, match=r"The rule\. Got: something else\. Remedy: do this\."):
        run_and_wait(scheduler, folder, name="me", allocation=ONE, on_progress=lambda record: None)


def test_what_an_earlier_run_left_is_not_taken_for_this_one(scheduler, stage):
    folder, seen = stage(fail=True), []
    folder.write_error(ScanError("An older rule.", got="an older fault.", remedy="none."))
    folder.progress.write_text('{"epoch": 99}\n')
    with pytest.raises(JobError, match="must end with a result"):
        run_and_wait(scheduler, folder, name="me", allocation=ONE, on_progress=seen.append)
    assert [record["epoch"] for record in seen] == [0, 1, 2]


@pytest.mark.parametrize("order", [{"fail": True}, {}])
def test_a_job_without_result_or_error_shows_its_log(scheduler, stage, order):
    with pytest.raises(JobError, match="rank 0 is here"):
        run_and_wait(scheduler, stage(**order), name="me", allocation=ONE, on_progress=lambda record: None)


@pytest.mark.parametrize("deaf", [False, True])
def test_cancel_leaves_no_rank(scheduler, stage, deaf):
    folder = stage(sleep_s=600, deaf=deaf)
    job = scheduler.submit(folder, name="me", allocation=TWO)
    ranks = wait_for_ranks(folder)
    assert scheduler.status(job).state is JobState.RUNNING
    scheduler.cancel(job)
    assert scheduler.status(job).state is JobState.CANCELLED
    assert_gone(ranks)


def test_an_exception_in_the_waiting_code_leaves_no_rank(scheduler, stage):
    folder, seen = stage(sleep_s=600), []

    def interrupt(record):
        seen.extend(wait_for_ranks(folder))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_and_wait(scheduler, folder, name="me", allocation=TWO, on_progress=interrupt)
    assert_gone(seen)


def test_another_process_cancels_ranks_whose_launcher_was_killed(scheduler, stage):
    folder = stage(sleep_s=600, outlives=True)
    job = scheduler.submit(folder, name="me", allocation=TWO)
    ranks = wait_for_ranks(folder)
    os.kill(psutil.Process(ranks[0]["pid"]).ppid(), signal.SIGKILL)
    other = LocalScheduler(module="sleeping_job", grace_s=5, poll_s=0.1)
    assert other.status(job).state is JobState.RUNNING
    other.cancel(job)
    assert_gone(ranks)
    assert scheduler.status(job).state is not JobState.RUNNING
