"""Submit a job and monitor it until it ends. Another process may have submitted the job."""

import time
from collections.abc import Callable
from typing import Any

from bluesky_multislice.errors import JobError, LostRankError, MultisliceError
from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus, Scheduler
from bluesky_multislice.jobs.schedulers.site import Allocation

_LOG_LINES = 50
_RESUMABLE = (JobState.NODE_FAILURE, JobState.PREEMPTED, JobState.TIMEOUT, JobState.INTERRUPTED)


def submit_once(scheduler: Scheduler, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
    """Return the job of that name if one was submitted before; otherwise submit a new one."""
    if found := scheduler.adopt(folder, name=name):
        return found
    return submit_or_resume(scheduler, folder, name=name, allocation=allocation)


def submit_or_resume(scheduler: Scheduler, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
    """Submit a job. If a job ran in this folder before, the new one resumes from its newest checkpoint."""
    folder.clear_last_run()
    folder.withdraw_stop()
    return scheduler.submit(folder, name=name, allocation=allocation)


def monitor_job(
    scheduler: Scheduler,
    job: Job,
    *,
    on_progress: Callable[[dict[str, Any]], None],
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> JobStatus:
    """Wait until a job ends and return its final status. An exception during the wait does not end the job.

    Args:
        scheduler: the scheduler that runs the job.
        job: the job; another process may have submitted it.
        on_progress: called with each record of ``progress.jsonl``.
        on_status: called with the first status and after each change.
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
        # A resumed job writes the epochs before its checkpoint again.
        seen = max(seen, len(records))
        if status.ended:
            return status
        time.sleep(scheduler.poll_s)


def job_error(scheduler: Scheduler, job: Job, status: JobStatus) -> MultisliceError | None:
    """Return the error of a job that has ended; None if it completed.

    If the job wrote no error, it is made from the scheduler's status and the last lines of the log.
    """
    if status.state is JobState.COMPLETED:
        return None
    left = job.folder.read_error() if status.state is JobState.FAILED else None
    if stopped := job.folder.read_interrupted():
        return JobError(
            "A job must end with a result.",
            got=f"job {job.id} {status} was asked to stop ({stopped['reason']}); it wrote a checkpoint at epoch "
            f"{stopped['epoch']}.",
            remedy=f"start it again in the same folder, {job.folder.path}: it resumes from the checkpoint.",
        )
    return left or JobError(
        "A job must end with a result.",
        got=f"job {job.id} {status}; the last lines of its log:\n{scheduler.tail(job, _LOG_LINES)}\n",
        remedy=f"read {job.folder.log}, then start the reconstruction again.",
    )


def may_resume(job: Job, status: JobStatus) -> bool:
    """Return whether a restart of the job can help: its end had an external cause, not its input."""
    if status.state is JobState.FAILED:
        error = job.folder.read_error()
        return error is None or isinstance(error, LostRankError)
    return status.state in _RESUMABLE


def run_and_wait(
    scheduler: Scheduler,
    folder: JobFolder,
    *,
    name: str,
    allocation: Allocation,
    on_progress: Callable[[dict[str, Any]], None],
    on_status: Callable[[JobStatus], None] = lambda status: None,
) -> None:
    """Submit a job and wait until it ends. An exception during the wait cancels the job.

    Args:
        scheduler: the scheduler that runs the job.
        folder: a staged job folder.
        name: the owner's name for the job.
        allocation: nodes, ranks and time.
        on_progress: called with each record of ``progress.jsonl``.
        on_status: called with each change of the job's status.

    Raises:
        MultisliceError: the error that the job wrote; JobError if it wrote none.
    """
    job = submit_or_resume(scheduler, folder, name=name, allocation=allocation)
    try:
        status = monitor_job(scheduler, job, on_progress=on_progress, on_status=on_status)
    except BaseException:
        scheduler.cancel(job)
        raise
    if error := job_error(scheduler, job, status):
        raise error
