"""The record of a job: its owner, its id at the scheduler, and its outcome. Every change is a named transition.

==============  ==============================  ============  ==========================================================
transition      from                            to            when
==============  ==============================  ============  ==========================================================
``prepare``     any                             staged        before a submission; forgets an earlier job
``submit``      staged                          submitted     the scheduler has accepted the job
``reopen``      any that has a job              submitted     a later attempt of the owner adopts the job
``publish``     any                             published     the volume is in the catalogue
``fail``        staged, submitted, failed,      failed        the owner ends with an error
                cancelled
``cancel``      staged, submitted, failed,      cancelled     the owner is cancelled, or has disappeared
                cancelled
==============  ==============================  ============  ==========================================================

A published volume stays published: ``fail`` and ``cancel`` do not change its record.
"""

from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from bluesky_multislice.errors import JobError

_VERSION = 1


class RecordState(StrEnum):
    """State of a job's record."""

    STAGED = "staged"
    """No job is submitted, or its submission is not recorded yet."""
    SUBMITTED = "submitted"
    """The scheduler has the job. It may be pending, running or ended."""
    PUBLISHED = "published"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the record contains an outcome."""
        return self not in (RecordState.STAGED, RecordState.SUBMITTED)


@dataclass(frozen=True)
class JobRecord:
    """Record of a job.

    Attributes:
        state: state of the record.
        name: the owner's name for the job, such as a flow run's id; empty before the first submission.
        job_id: its id at the scheduler; empty before the first submission.
        message: path of the published volume, or the reason of a failure or cancellation.
    """

    state: RecordState = RecordState.STAGED
    name: str = ""
    job_id: str = ""
    message: str = ""

    def prepare(self) -> "JobRecord":
        """Return the record before a submission."""
        return JobRecord()

    def submit(self, *, name: str, job_id: str) -> "JobRecord":
        """Return the record of a job that the scheduler has accepted.

        Raises:
            JobError: another job is recorded.
        """
        if self.state is not RecordState.STAGED:
            raise JobError(
                "A job is submitted from a record without a job.",
                got=f"a record that is {self.state}, of job {self.job_id}.",
                remedy="prepare the record before the submission.",
            )
        return JobRecord(RecordState.SUBMITTED, name, job_id)

    def reopen(self) -> "JobRecord":
        """Return the record of a job that a later attempt of its owner has adopted.

        Raises:
            JobError: the record has no job.
        """
        if not self.job_id:
            raise JobError(
                "Only a record with a job can be reopened.",
                got=f"a record that is {self.state}, without a job.",
                remedy="submit the job first.",
            )
        return replace(self, state=RecordState.SUBMITTED, message="")

    def publish(self, path: str) -> "JobRecord":
        """Return the record of a job whose volume is in the catalogue, at this path."""
        return replace(self, state=RecordState.PUBLISHED, message=path)

    def fail(self, message: str) -> "JobRecord":
        """Return the record of a job whose owner ended with this error."""
        return self._end(RecordState.FAILED, message)

    def cancel(self, message: str) -> "JobRecord":
        """Return the record of a job whose owner was cancelled or has disappeared."""
        return self._end(RecordState.CANCELLED, message)

    def as_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {"version": _VERSION} | asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "JobRecord":
        """Return the record from ``as_dict``.

        Raises:
            JobError: another version of this package wrote the record.
        """
        if values.get("version") != _VERSION:
            raise JobError(
                f"The record of a job must have version {_VERSION}.",
                got=f"version {values.get('version')}.",
                remedy="let jobs end before another version of this package is installed, then remove their folders.",
            )
        return cls(RecordState(values["state"]), values["name"], values["job_id"], values["message"])

    def _end(self, state: RecordState, message: str) -> "JobRecord":
        return self if self.state is RecordState.PUBLISHED else replace(self, state=state, message=message)
