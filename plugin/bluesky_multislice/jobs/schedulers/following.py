"""How a caller waits for a job. A job may have been submitted by another process, such as one that died."""

import time
from collections.abc import Callable
from typing import Any

from bluesky_multislice.errors import JobError, LostRankError, MultisliceError
from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus, Scheduler
from bluesky_multislice.jobs.schedulers.site import Allocation

_LOG_LINES = 50
_MAY_GO_ON = (JobState.NODE_FAILURE, JobState.PREEMPTED, JobState.TIMEOUT, JobState.INTERRUPTED)


def submit_once(scheduler: Scheduler, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
    """Return the job of that name: the one that was submitted before, or else a new one."""
    if found := scheduler.adopt(folder, name=name):
        return found
    return start_again(scheduler, folder, name=name, allocation=allocation)


def start_again(scheduler: Scheduler, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
    """Submit a job, also one that ran before in this folder: it goes on from its newest checkpoint."""
    folder.forget_last_run()
    folder.withdraw_stop()
    return scheduler.submit(folder, name=name, allocation=allocation)


def follow(
    scheduler: Scheduler,
    job: Job,
    *,
    on_progress: Callable[[dict[str, Any]], None],
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> JobStatus:
    """Wait for the end of a job and return how it ended. Whatever stops the waiting leaves the job alone.

    Args:
        scheduler: where it runs.
        job: the job, submitted by whomever.
        on_progress: called with each record of ``progress.jsonl``.
        on_status: called with the first status and with each other one that follows.
    """
    seen, last = 0, None
    while True:
        status = scheduler.status(job)
        if status != last:
            on_status(status)
            last = status
        records = job.folder.read_progress()
        for record in records[seen:]:
            on_progress(record)
        # A job that goes on from a checkpoint writes the epochs before it again.
        seen = max(seen, len(records))
        if status.ended:
            return status
        time.sleep(scheduler.poll_s)


def failure(scheduler: Scheduler, job: Job, status: JobStatus) -> MultisliceError | None:
    """Return the error of a job that has ended: the one that it left, or the scheduler's word and the log's end."""
    if status.state is JobState.COMPLETED:
        return None
    left = job.folder.read_error() if status.state is JobState.FAILED else None
    if stopped := job.folder.read_interrupted():
        return JobError(
            "A job must end with a result.",
            got=f"job {job.id} {status} was asked to stop ({stopped['reason']}); it left a checkpoint of epoch "
            f"{stopped['epoch']}.",
            remedy=f"start it again in the same folder, {job.folder.path}: it goes on from there.",
        )
    return left or JobError(
        "A job must end with a result.",
        got=f"job {job.id} {status}; the last lines of its log:\n{scheduler.tail(job, _LOG_LINES)}\n",
        remedy=f"read {job.folder.log}, then start the reconstruction again.",
    )


def may_go_on(job: Job, status: JobStatus) -> bool:
    """Return whether starting the job again in its folder can help: it was ended from outside, not by its input."""
    if status.state is JobState.FAILED:
        error = job.folder.read_error()
        return error is None or isinstance(error, LostRankError)
    return status.state in _MAY_GO_ON


def run_to_end(
    scheduler: Scheduler,
    folder: JobFolder,
    *,
    name: str,
    allocation: Allocation,
    on_progress: Callable[[dict[str, Any]], None],
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> None:
    """Submit a job and wait for its end. Whatever stops the waiting also ends the job.

    Args:
        scheduler: where it runs.
        folder: a staged job folder.
        name: the owner's name for the job.
        allocation: nodes, ranks and time.
        on_progress: called with each record of ``progress.jsonl``.
        on_status: called with each change of the job's status.

    Raises:
        MultisliceError: the error that the job left, or JobError where it left none.
    """
    job = start_again(scheduler, folder, name=name, allocation=allocation)
    try:
        status = follow(scheduler, job, on_progress=on_progress, on_status=on_status)
    except BaseException:
        scheduler.cancel(job)
        raise
    if error := failure(scheduler, job, status):
        raise error
