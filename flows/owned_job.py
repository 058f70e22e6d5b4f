"""The one job of a flow run, from submission to its end, over whatever happens to the flow in between."""

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
    failure,
    follow,
    may_go_on,
    start_again,
)
from flows.job_record import forget_outcome, read_outcome, writing_in

_T = TypeVar("_T")
_PATIENCE_S = 180.0
_PAUSE_S = 5.0
_NOT_OF_ITS_OWN = (JobState.NODE_FAILURE, JobState.PREEMPTED)
_NAMES = {
    JobState.TIMEOUT: "TimedOut",
    JobState.OUT_OF_MEMORY: "OutOfMemory",
    JobState.NODE_FAILURE: "NodeFailure",
    JobState.PREEMPTED: "Preempted",
    JobState.INTERRUPTED: "Interrupted",
}


class OwnedJob:
    """The job that belongs to one flow run: submitted once, adopted afterwards.

    Args:
        scheduler: where it runs.
        folder: its job folder.
        name: the flow run's id, which is the job's name.
        most_restarts: how often it is started again where that can help.
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
        """How the job ended; None before."""
        self.restarts = 0
        """How often this flow has started it again."""

    @property
    def folder(self) -> JobFolder:
        """Its job folder."""
        return self._folder

    def find(self) -> bool:
        """Look for the job that an earlier attempt of the flow run has submitted.

        Returns:
            Whether there is one to go on with. A job that ended badly, and whose end was told, is none: whoever runs
            the flow again wants it to be tried again.
        """
        self._job = patiently(lambda: self._scheduler.adopt(self._folder, name=self._name), self._log)
        if self._job is None:
            return False
        status = self._scheduler.status(self._job)
        if status.ended and status.state is not JobState.COMPLETED and read_outcome(self._folder):
            self._log.info("The job of the attempt before is %s; it is started again", status)
            self._job = None
            return False
        self._log.info("Going on with job %s: %s", self._job.id, status)
        return True

    def run(
        self,
        allocation: Allocation,
        *,
        on_progress: Callable[[dict[str, Any]], None],
        on_status: Callable[[JobStatus], None],
    ) -> None:
        """Submit the job unless it was found, follow it to its end, and start it again where that can help.

        Whatever stops the following leaves the job alone: ``cancel`` ends it.

        Args:
            allocation: nodes, ranks and time.
            on_progress: called with each record of ``progress.jsonl``.
            on_status: called with each change of the job's status.

        Raises:
            MultisliceError: the error that the job left, or the scheduler's word and the end of the log.
        """
        known = 0
        while True:
            job = self._job or self._start(allocation)
            self.status = follow(self._scheduler, job, on_progress=on_progress, on_status=on_status)
            error = failure(self._scheduler, job, self.status)
            if error is None:
                return
            done = len(self._folder.read_progress())
            if not self._may_help(job, self.status, further=done > known):
                raise error
            known = done
            self.restarts += 1
            self._log.warning(
                "Job %s %s after %d epochs; it is started again, %d of %d times",
                job.id,
                self.status,
                done,
                self.restarts,
                self._most_restarts,
            )
            self._job = None

    @property
    def all_restarts(self) -> int:
        """How often flow and scheduler together have started the job again."""
        return self.restarts + (self.status.restarts if self.status else 0)

    def cancel(self) -> None:
        """End the job, also one that still waits."""
        job = self._job or self._scheduler.adopt(self._folder, name=self._name)
        if job is not None:
            self._scheduler.cancel(job)

    def state_of(self, error: MultisliceError) -> State:
        """Return the flow run's state for an error of ``run``, in the scheduler's terms where it has any."""
        message = f"{type(error).__name__}: {error}"
        ended = self.status.state if self.status else JobState.FAILED
        if ended is JobState.CANCELLED:
            return Cancelled(message=message)
        return Failed(name=_NAMES.get(ended, "Failed"), message=message)

    def _start(self, allocation: Allocation) -> Job:
        self._log.info("By hand: %s", self._scheduler.by_hand(self._folder, name=self._name, allocation=allocation))
        with writing_in(self._folder):
            forget_outcome(self._folder)
            self._job = start_again(self._scheduler, self._folder, name=self._name, allocation=allocation)
        self._log.info("Job %s is submitted", self._job.id)
        return self._job

    def _may_help(self, job: Job, status: JobStatus, *, further: bool) -> bool:
        """Return whether to start the job again: it was not its own fault, or it came further than the time before."""
        if not may_go_on(job, status) or self.restarts >= self._most_restarts:
            return False
        return further or status.state in _NOT_OF_ITS_OWN


def patiently(ask: Callable[[], _T], log: logging.Logger | logging.LoggerAdapter) -> _T:
    """Ask a scheduler again while it does not answer.

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
            log.warning("%s; asked again in %g s", error, _PAUSE_S)
            time.sleep(_PAUSE_S)
