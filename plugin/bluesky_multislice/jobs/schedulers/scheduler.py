"""What every scheduler offers: a job's life from submission to its end."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.site import Allocation


class JobState(StrEnum):
    """Where a job is in its life; an interrupted one stopped at a checkpoint and goes on when submitted again."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    NODE_FAILURE = "node_failure"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"
    """It stopped at a checkpoint and goes on when submitted again."""
    NOT_VISIBLE = "not_visible"
    """The scheduler does not show the job, or does not answer: for the moment nobody knows."""

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.NOT_VISIBLE)


@dataclass(frozen=True)
class JobStatus:
    """A job at the moment.

    Attributes:
        state: where it is in its life.
        reason: the scheduler's own word for it, such as ``Resources`` of a job that waits.
        exit_detail: how its processes ended, such as ``exit status 1`` or ``signal 9``; empty before.
        restarts: how often the scheduler has started it again.
    """

    state: JobState
    reason: str = ""
    exit_detail: str = ""
    restarts: int = 0

    @property
    def ended(self) -> bool:
        """Whether the job will not change any more."""
        return self.state.ended

    def __str__(self) -> str:
        details = [text for text in (self.reason, self.exit_detail) if text]
        if self.restarts:
            details.append(f"restarts {self.restarts}")
        return f"{self.state.value} ({', '.join(details)})" if details else self.state.value


@dataclass(frozen=True)
class Job:
    """A submitted job, in whichever process.

    Attributes:
        id: its number or name at the scheduler; text that can be stored.
        folder: its job folder.
    """

    id: str
    folder: JobFolder


class Scheduler(Protocol):
    """Starts jobs and tells how they are. A job can be followed by another process than the one that submitted it.

    Attributes:
        poll_s: seconds between two looks at a job.
    """

    poll_s: float

    def submit(self, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
        """Start the job in a staged folder.

        Args:
            folder: the job folder.
            name: the owner's name for the job, such as a flow run's id; ``adopt`` finds the job by it.
            allocation: nodes, ranks and time.

        Raises:
            SchedulerError: the scheduler refuses the job or does not answer.
        """
        ...

    def status(self, job: Job) -> JobStatus:
        """Return how the job is."""
        ...

    def cancel(self, job: Job) -> None:
        """End every process of the job, or take it out of the queue; return when they are gone."""
        ...

    def tail(self, job: Job, lines: int) -> str:
        """Return the last lines that the job printed."""
        ...

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the waiting, running or ended job of that name and folder; None where none was ever submitted.

        Raises:
            SchedulerError: the scheduler does not answer, so that nobody knows.
        """
        ...

    def live(self) -> dict[str, str]:
        """Return name → id of this user's jobs that wait or run."""
        ...

    def by_hand(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the command that starts the job by hand, for a shell."""
        ...
