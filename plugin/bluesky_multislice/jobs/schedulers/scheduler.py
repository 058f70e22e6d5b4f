"""The interface of a scheduler, and the states of a job from submission to its end."""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Protocol

from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile


class JobState(StrEnum):
    """State of a job."""

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
    """The job stopped at a checkpoint. It resumes when it is submitted again."""
    NOT_VISIBLE = "not_visible"
    """The scheduler does not list the job or does not answer; its state is unknown for now."""

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self not in (JobState.PENDING, JobState.RUNNING, JobState.NOT_VISIBLE)


@dataclass(frozen=True)
class JobStatus:
    """Current status of a job.

    Attributes:
        state: state of the job.
        reason: the scheduler's reason for the state, such as ``Resources`` for a pending job.
        exit_detail: how its processes ended, such as ``exit status 1`` or ``signal 9``; empty while it runs.
        restarts: how often the scheduler has restarted it.
    """

    state: JobState
    reason: str = ""
    exit_detail: str = ""
    restarts: int = 0

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.state.ended

    def __str__(self) -> str:
        details = [text for text in (self.reason, self.exit_detail) if text]
        if self.restarts:
            details.append(f"restarts {self.restarts}")
        return f"{self.state.value} ({', '.join(details)})" if details else self.state.value


@dataclass(frozen=True)
class Job:
    """A submitted job. It can be used in another process than the one that submitted it.

    Attributes:
        id: its number or name at the scheduler, as text.
        folder: its job folder.
    """

    id: str
    folder: JobFolder


class Scheduler(Protocol):
    """Starts, queries and cancels jobs. A job can be monitored by another process than the one that submitted it.

    Attributes:
        on_this_machine: whether jobs run on this machine, so that it is planned for and the site profile's sizes of
            nodes are not used.
        poll_s: seconds between two status checks.
    """

    on_this_machine: ClassVar[bool]
    poll_s: float

    def __init__(self, profile: SiteProfile) -> None:
        """Make the scheduler of a site."""
        ...

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
        """Return the current status of the job."""
        ...

    def cancel(self, job: Job) -> None:
        """Remove the job from the queue or end its processes. Returns after all processes have ended."""
        ...

    def tail(self, job: Job, lines: int) -> str:
        """Return the last lines of the job's output."""
        ...

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the pending, running or ended job of that name and folder; None if none was ever submitted.

        Raises:
            SchedulerError: the scheduler does not answer.
        """
        ...

    def active_jobs(self) -> dict[str, str]:
        """Return name → id of this user's pending and running jobs."""
        ...

    def manual_command(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the shell command that starts the job manually."""
        ...
