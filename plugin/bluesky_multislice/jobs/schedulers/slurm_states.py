"""Slurm's words for a job, and ours."""

import re

from bluesky_multislice.jobs.schedulers.scheduler import JobState, JobStatus

_STATES = {
    "PENDING": JobState.PENDING,
    "CONFIGURING": JobState.PENDING,
    "REQUEUED": JobState.PENDING,
    "REQUEUE_FED": JobState.PENDING,
    "REQUEUE_HOLD": JobState.PENDING,
    "RESV_DEL_HOLD": JobState.PENDING,
    "SPECIAL_EXIT": JobState.PENDING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "STOPPED": JobState.RUNNING,
    "SUSPENDED": JobState.RUNNING,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "LAUNCH_FAILED": JobState.FAILED,
    "RECONFIG_FAIL": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "REVOKED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMEOUT,
    "DEADLINE": JobState.TIMEOUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAILURE,
    "BOOT_FAIL": JobState.NODE_FAILURE,
    "PREEMPTED": JobState.PREEMPTED,
}
"""https://slurm.schedmd.com/job_state_codes.html"""

_NEVER = re.compile(
    r"Partition(Config|NodeLimit|TimeLimit)|BadConstraints|Invalid(Account|QOS)|(Assoc|QOS)(Grp|Max)\w*(PerJob|PerNode)\w*"
)

_FIELD = re.compile(r"(?:^| )(JobState|Reason|ExitCode|Restarts)=(\S*)")


def state_of(word: str) -> JobState:
    """Return the state of one of Slurm's words, such as ``CANCELLED by 1000``.

    A word that a newer Slurm may have is not known to be an end, and so the job is followed until one that is comes.
    """
    return _STATES.get(word.split()[0].rstrip("+") if word.strip() else "", JobState.RUNNING)


def status_of_record(record: str) -> JobStatus:
    """Return the status in one line of ``scontrol show job --oneliner``."""
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(record):
        # The first of a name is Slurm's own: later in the line come values of the user.
        fields.setdefault(name, value)
    state = state_of(fields.get("JobState", ""))
    reason = "" if fields.get("Reason") in (None, "None", "(null)") else fields["Reason"].replace("_", " ")
    detail = exit_detail(fields.get("ExitCode", "")) if state.ended else ""
    return JobStatus(state, reason=reason, exit_detail=detail, restarts=int(fields.get("Restarts") or 0))


def never_starts(status: JobStatus) -> bool:
    """Return whether a job waits for what waiting does not bring, such as more nodes than its partition has."""
    return status.state is JobState.PENDING and _NEVER.fullmatch(status.reason) is not None


def exit_detail(code: str) -> str:
    """Return Slurm's ``status:signal`` in words; empty for 0:0."""
    status, _, number = code.partition(":")
    if number not in ("", "0"):
        return f"signal {number}"
    return f"exit status {status}" if status not in ("", "0") else ""
