"""What every scheduler offers, and how a caller waits for a job without ever leaving one behind."""

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Any, Protocol

from bluesky_multislice.errors import JobError
from bluesky_multislice.interchange.job_folder import JobFolder

_LOG_LINES = 50


class JobState(StrEnum):
    """Where a job is in its life; an interrupted one stopped at a checkpoint and goes on when submitted again."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self not in (JobState.PENDING, JobState.RUNNING)


class Scheduler(Protocol):
    """Starts jobs and tells how they are. A job id is valid in other processes too."""

    def submit(self, folder: JobFolder, *, ranks: int) -> str:
        """Start the job in ``folder`` on ``ranks`` processes and return its id."""
        ...

    def status(self, job_id: str) -> JobState:
        """Return the job's state."""
        ...

    def cancel(self, job_id: str) -> None:
        """End every process of the job; return when they are gone."""
        ...

    def tail(self, job_id: str, lines: int) -> str:
        """Return the last lines that the job printed."""
        ...


def run_to_end(
    scheduler: Scheduler,
    folder: JobFolder,
    *,
    ranks: int,
    on_progress: Callable[[dict[str, Any]], None],
    poll_s: float = 0.5,
) -> None:
    """Submit a job and wait for its end. Whatever stops the waiting also ends the job.

    Args:
        scheduler: where it runs.
        folder: a staged job folder.
        ranks: number of processes.
        on_progress: called with each record of ``progress.jsonl``.
        poll_s: seconds between two looks.

    Raises:
        MultisliceError: the error that the job left, or JobError where it left none or was interrupted.
    """
    folder.forget_last_run()
    folder.withdraw_stop()
    job_id = scheduler.submit(folder, ranks=ranks)
    try:
        state = _wait(scheduler, job_id, folder, on_progress, poll_s)
    except BaseException:
        scheduler.cancel(job_id)
        raise
    if stopped := folder.read_interrupted():
        raise JobError(
            "A job must end with a result.",
            got=f"it was asked to stop ({stopped['reason']}) and left a checkpoint of epoch {stopped['epoch']}.",
            remedy=f"start it again in the same folder, {folder.path}: it goes on from there.",
        )
    if state is not JobState.COMPLETED:
        raise folder.read_error() or JobError(
            "A job must end with a result.",
            got=f"state {state}; the last lines of its log:\n{scheduler.tail(job_id, _LOG_LINES)}\n",
            remedy=f"read {folder.log}, then start the reconstruction again.",
        )


def _wait(
    scheduler: Scheduler,
    job_id: str,
    folder: JobFolder,
    on_progress: Callable[[dict[str, Any]], None],
    poll_s: float,
) -> JobState:
    seen = 0
    while True:
        state = scheduler.status(job_id)
        for record in folder.read_progress(seen):
            seen += 1
            on_progress(record)
        if state.ended:
            return state
        time.sleep(poll_s)
