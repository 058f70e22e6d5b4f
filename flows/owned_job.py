"""The job of a flow run, from submission to its end. A later attempt of the same flow run adopts the job."""

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Failed

from bluesky_multislice.errors import MultisliceError, SchedulerError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import (
    Allocation,
    Job,
    JobState,
    JobStatus,
    Scheduler,
    job_error,
    may_resume,
    monitor_job,
    submit_or_resume,
)
from flows.folder_writes import explain_write_errors

_T = TypeVar("_T")
_PATIENCE_S = 180.0
_PAUSE_S = 5.0
_EXTERNAL_FAILURES = (JobState.NODE_FAILURE, JobState.PREEMPTED)
_NAMES = {
    JobState.TIMEOUT: "TimedOut",
    JobState.OUT_OF_MEMORY: "OutOfMemory",
    JobState.NODE_FAILURE: "NodeFailure",
    JobState.PREEMPTED: "Preempted",
    JobState.INTERRUPTED: "Interrupted",
}


class OwnedJob:
    """The job that belongs to one flow run: submitted once, adopted by later attempts.

    Args:
        scheduler: the scheduler that runs the job.
        folder: its job folder.
        name: the flow run's id, which is also the job's name.
        most_restarts: largest number of restarts by this flow.
        log: the flow run's logger.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        folder: JobFolder,
        *,
        name: str,
        most_restarts: int,
        log: logging.Logger | logging.LoggerAdapter,
    ) -> None:
        self._scheduler, self._folder, self._name = scheduler, folder, name
        self._most_restarts, self._log = most_restarts, log
        self._job: Job | None = None
        self.status: JobStatus | None = None
        """Final status of the job; None before its end."""
        self.restarts = 0
        """How often this flow has restarted the job."""

    @property
    def folder(self) -> JobFolder:
        """Its job folder."""
        return self._folder

    def find(self) -> bool:
        """Find the job that an earlier attempt of the flow run submitted. The record has no outcome afterwards.

        Returns:
            Whether a job was adopted. A failed or cancelled job with a recorded outcome is not adopted: a person who
            runs the flow again wants the job to be tried again.

        Raises:
            SchedulerError: the scheduler does not answer.
            JobError: the job folder cannot be written.
        """
        former = self._folder.read_record().state
        job = call_with_retries(lambda: self._scheduler.adopt(self._folder, name=self._name), self._log)
        if job is not None:
            status = self._scheduler.status(job)
            if status.ended and status.state is not JobState.COMPLETED and former.ended:
                self._log.info("The job of the previous attempt is %s; it is started again", status)
                job = None
            else:
                self._log.info("Adopted job %s: %s", job.id, status)
        self._job = job
        with explain_write_errors(self._folder):
            record = self._folder.read_record()
            self._folder.write_record(record.prepare() if job is None else record.reopen())
        return job is not None

    def run(
        self,
        allocation: Allocation,
        *,
        on_progress: Callable[[dict[str, Any]], None],
        on_status: Callable[[JobStatus], None],
    ) -> None:
        """Submit the job unless it was adopted, monitor it to its end, and restart it if that can help.

        An exception while monitoring does not end the job; ``cancel`` does.

        Args:
            allocation: nodes, ranks and time.
            on_progress: called with each record of ``progress.jsonl``.
            on_status: called with each change of the job's status.

        Raises:
            MultisliceError: the error that the job wrote; otherwise a JobError with the scheduler's status and the end
                of the log.
        """
        epochs_before = 0
        while True:
            job = self._job or self._start(allocation)
            self.status = monitor_job(self._scheduler, job, on_progress=on_progress, on_status=on_status)
            error = job_error(self._scheduler, job, self.status)
            if error is None:
                return
            epochs = len(self._folder.read_progress())
            if not self._restart_can_help(job, self.status, progressed=epochs > epochs_before):
                raise error
            epochs_before = epochs
            self.restarts += 1
            self._log.warning(
                "Job %s %s after %d epochs; it is started again, %d of %d times",
                job.id,
                self.status,
                epochs,
                self.restarts,
                self._most_restarts,
            )
            self._job = None

    @property
    def all_restarts(self) -> int:
        """Number of restarts by the flow and by the scheduler."""
        return self.restarts + (self.status.restarts if self.status else 0)

    def cancel(self) -> None:
        """End the job, even if it is pending."""
        job = self._job or self._scheduler.adopt(self._folder, name=self._name)
        if job is not None:
            self._scheduler.cancel(job)

    def state_of(self, error: MultisliceError) -> State:
        """Return the flow run's state for an error of ``run``, named after the final state of the job."""
        message = f"{type(error).__name__}: {error}"
        ended = self.status.state if self.status else JobState.FAILED
        if ended is JobState.CANCELLED:
            return Cancelled(message=message)
        return Failed(name=_NAMES.get(ended, "Failed"), message=message)

    def _start(self, allocation: Allocation) -> Job:
        command = self._scheduler.manual_command(self._folder, name=self._name, allocation=allocation)
        self._log.info("To start the job manually: %s", command)
        with explain_write_errors(self._folder):
            self._job = submit_or_resume(self._scheduler, self._folder, name=self._name, allocation=allocation)
        self._log.info("Job %s is submitted", self._job.id)
        return self._job

    def _restart_can_help(self, job: Job, status: JobStatus, *, progressed: bool) -> bool:
        """Return whether to restart the job: its end had an external cause, or it completed more epochs than before."""
        if not may_resume(job, status) or self.restarts >= self._most_restarts:
            return False
        return progressed or status.state in _EXTERNAL_FAILURES


def call_with_retries(ask: Callable[[], _T], log: logging.Logger | logging.LoggerAdapter) -> _T:
    """Call a scheduler, and repeat the call while it does not answer.

    Raises:
        SchedulerError: it has not answered for three minutes.
    """
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return ask()
        except SchedulerError as error:
            if time.monotonic() > end:
                raise
            log.warning("%s; next attempt in %g s", error, _PAUSE_S)
            time.sleep(_PAUSE_S)
