"""The one job of a flow run with real ranks: adopted, not doubled, and started again only where that can help."""

import json
import logging
import os
import signal
import time

import psutil
import pytest

from bluesky_multislice.errors import JobError, ScanError
from bluesky_multislice.jobs import JobFolder, RecordState, write_json
from bluesky_multislice.jobs.schedulers import Allocation, Job, JobState, LocalScheduler
from flows.owned_job import OwnedJob

ONE = Allocation()
LOG = logging.getLogger(__name__)
A_FAULT = {"kind": "ScanError", "rule": "The rule.", "got": "something else.", "remedy": "do this."}


@pytest.fixture
def folder(tmp_path):
    return JobFolder(tmp_path / "job").create()


@pytest.fixture
def own(folder, monkeypatch):
    """Makes the owner, as each attempt of the flow run makes one in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))
    schedulers = []

    def make(most_restarts=3, **order):
        if order:
            write_json(folder.job, order)
        scheduler = LocalScheduler(module="sleeping_job", grace_s=5)
        schedulers.append(scheduler)
        return OwnedJob(scheduler, folder, name="the flow run", most_restarts=most_restarts, log=LOG)

    yield make
    # A process has no command line any more a moment before it can be waited for.
    end = time.monotonic() + 10
    while not all(scheduler.status(Job(str(folder.path), folder)).ended for scheduler in schedulers):
        assert time.monotonic() < end, "the job goes on after its test"
        time.sleep(0.1)


def run(job):
    job.run(ONE, on_progress=lambda record: None, on_status=lambda status: None)


def attempts(folder):
    return len(list(folder.path.glob("attempt-*")))


def rank_of(folder, limit_s=60):
    end, path = time.monotonic() + limit_s, folder.path / "rank-0.json"
    while not (path.exists() and path.stat().st_size):
        assert time.monotonic() < end, "the rank did not start"
        time.sleep(0.1)
    return psutil.Process(json.loads(path.read_text())["pid"])


def test_the_next_attempt_goes_on_with_the_job_of_the_one_before(own, folder):
    def end(status):
        rank_of(folder)
        raise KeyboardInterrupt

    first = own(sleep_s=2, result=True)
    assert not first.find()
    with pytest.raises(KeyboardInterrupt):
        first.run(ONE, on_progress=lambda record: None, on_status=end)
    second = own()
    assert second.find()
    run(second)
    assert second.status.state is JobState.COMPLETED
    assert attempts(folder) == 1
    folder.write_record(folder.read_record().fail("it was not published"))
    third = own()
    assert third.find()
    assert folder.read_record().state is RecordState.SUBMITTED, "the reaper must not count this attempt as ended"
    run(third)
    assert attempts(folder) == 1


def test_a_job_that_was_killed_is_started_again(own, folder):
    job = own(killed_times=1, result=True)
    run(job)
    assert attempts(folder) == 2
    assert job.restarts == job.all_restarts == 1


def test_a_job_that_gets_no_further_is_given_up(own, folder):
    job = own(killed_times=9)
    with pytest.raises(JobError, match="rank 0 is here"):
        run(job)
    assert attempts(folder) == 2


def test_the_number_of_restarts_is_limited(own, folder):
    with pytest.raises(JobError):
        run(own(killed_times=1, result=True, most_restarts=0))
    assert attempts(folder) == 1


def test_wrong_input_is_not_tried_again(own, folder):
    job = own(fail=True, error=A_FAULT)
    with pytest.raises(ScanError, match="The rule") as caught:
        run(job)
    assert attempts(folder) == 1
    assert job.state_of(caught.value).is_failed()


def test_an_end_that_was_told_is_no_job_to_go_on_with(own, folder):
    with pytest.raises(ScanError):
        run(own(fail=True, error=A_FAULT))
    assert own().find()
    folder.write_record(folder.read_record().fail("it was told"))
    again = own(result=True)
    assert not again.find()
    assert not folder.read_record().state.ended
    run(again)
    assert again.status.state is JobState.COMPLETED


def test_a_job_that_somebody_else_cancelled_is_a_cancelled_flow_run(own, folder):
    job = own(sleep_s=600)

    def cancel(status):
        if status.state is JobState.RUNNING:
            rank_of(folder)
            own().cancel()

    with pytest.raises(JobError) as caught:
        job.run(ONE, on_progress=lambda record: None, on_status=cancel)
    assert job.state_of(caught.value).is_cancelled()
    assert attempts(folder) == 1


def test_ranks_whose_launcher_was_killed_finish_the_job(own, folder):
    job = own(sleep_s=3, result=True, outlives=True)

    def kill(status):
        if status.state is JobState.RUNNING:
            os.kill(rank_of(folder).ppid(), signal.SIGKILL)

    job.run(Allocation(ranks_per_node=2), on_progress=lambda record: None, on_status=kill)
    assert job.status.state is JobState.COMPLETED
    assert attempts(folder) == 1
