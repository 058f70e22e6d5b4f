"""What a caller makes of a job that has ended."""

import pytest

from bluesky_multislice.errors import JobError, LostRankError, ScanError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import (
    Job,
    JobState,
    JobStatus,
    LocalScheduler,
    job_error,
    may_resume,
    monitor_job,
)

WORDS = {"got": "this.", "remedy": "that."}


@pytest.fixture
def job(tmp_path):
    folder = JobFolder(tmp_path / "job").create()
    folder.log.write_text("first\nlast words\n")
    return Job(str(folder.path), folder)


@pytest.mark.parametrize("state", [JobState.NODE_FAILURE, JobState.PREEMPTED, JobState.TIMEOUT, JobState.INTERRUPTED])
def test_a_job_that_was_ended_from_outside_may_go_on(job, state):
    assert may_resume(job, JobStatus(state))


@pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.CANCELLED, JobState.OUT_OF_MEMORY, JobState.RUNNING])
def test_others_may_not(job, state):
    assert not may_resume(job, JobStatus(state))


@pytest.mark.parametrize(
    ("error", "may"),
    [
        (None, True),
        (LostRankError("Ranks live.", **WORDS), True),
        (ScanError("A scan has frames.", **WORDS), False),
        (JobError("A fit must not diverge.", **WORDS), False),
        (ZeroDivisionError(), False),
    ],
)
def test_a_failed_job_may_go_on_unless_it_would_fail_again(job, error, may):
    if error:
        job.folder.write_error(error)
    assert may_resume(job, JobStatus(JobState.FAILED)) is may


def test_an_error_has_the_schedulers_word_and_the_end_of_the_log(job):
    status = JobStatus(JobState.NODE_FAILURE, reason="NodeDown")
    text = str(job_error(LocalScheduler(), job, status))
    assert "node_failure (NodeDown)" in text
    assert "last words" in text
    assert job_error(LocalScheduler(), job, JobStatus(JobState.COMPLETED)) is None


def test_the_jobs_own_error_comes_first(job):
    job.folder.write_error(ScanError("A scan has frames.", **WORDS))
    assert isinstance(job_error(LocalScheduler(), job, JobStatus(JobState.FAILED)), ScanError)


def test_epochs_that_a_job_writes_again_are_reported_once(job):
    """Looked at without a scheduler's clock: each look finds the next state and the progress of that moment."""
    looks = iter([([1, 2], False), ([], False), ([1, 2, 3], False), ([1, 2, 3, 4], True)])

    class Looks(LocalScheduler):
        def status(self, job):
            epochs, ended = next(looks)
            job.folder.progress.write_text("".join(f'{{"epoch": {epoch}}}\n' for epoch in epochs))
            return JobStatus(JobState.FAILED if ended else JobState.RUNNING)

    seen, states = [], []
    status = monitor_job(
        Looks(poll_s=0), job, on_progress=lambda record: seen.append(record["epoch"]), on_status=states.append
    )
    assert seen == [1, 2, 3, 4]
    assert [each.state for each in states] == [JobState.RUNNING, JobState.FAILED]
    assert status == states[-1]
