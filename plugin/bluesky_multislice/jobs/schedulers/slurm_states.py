"""Translation of Slurm's job states into ``JobState``."""

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

_NEVER_STARTS = re.compile(
    r"Partition(Config|NodeLimit|TimeLimit)|BadConstraints|Invalid(Account|QOS)|(Assoc|QOS)(Grp|Max)\w*(PerJob|PerNode)\w*"
)

_FIELD = re.compile(r"(?:^| )(JobState|Reason|ExitCode|Restarts)=(\S*)")


def state_from_slurm(text: str) -> JobState:
    """Return the state for Slurm's state text, such as ``CANCELLED by 1000``.

    An unknown state, for example of a newer Slurm, counts as running, so that the job is monitored until a known end.
    """
    return _STATES.get(text.split()[0].rstrip("+") if text.strip() else "", JobState.RUNNING)


def parse_job_record(record: str) -> JobStatus:
    """Return the status from one line of ``scontrol show job --oneliner``."""
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(record):
        # Use the first value of each name: values later in the line can come from the user.
        fields.setdefault(name, value)
    state = state_from_slurm(fields.get("JobState", ""))
    reason = "" if fields.get("Reason") in (None, "None", "(null)") else fields["Reason"].replace("_", " ")
    detail = exit_detail(fields.get("ExitCode", "")) if state.ended else ""
    return JobStatus(state, reason=reason, exit_detail=detail, restarts=int(fields.get("Restarts") or 0))


def can_never_start(status: JobStatus) -> bool:
    """Return whether a pending job can never start, for example because it needs more nodes than its partition has."""
    return status.state is JobState.PENDING and _NEVER_STARTS.fullmatch(status.reason) is not None


def exit_detail(code: str) -> str:
    """Return Slurm's ``status:signal`` as text; empty for 0:0."""
    status, _, number = code.partition(":")
    if number not in ("", "0"):
        return f"signal {number}"
    return f"exit status {status}" if status not in ("", "0") else ""
