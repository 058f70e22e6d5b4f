"""Translation of Slurm's job states into ``JobState``."""

import re
from collections.abc import Iterator

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

    A plus sign marks a state that Slurm cut to the width of its column. An unknown state, for example of a newer Slurm,
    counts as running, so that the job is monitored until a known end.
    """
    word = text.split()[0] if text.strip() else ""
    if not word.endswith("+"):
        return _STATES.get(word, JobState.RUNNING)
    possible = {state for name, state in _STATES.items() if name.startswith(word.rstrip("+"))}
    return possible.pop() if len(possible) == 1 else JobState.RUNNING


def last_accounting_status(answer: str) -> JobStatus | None:
    """Return the status from sacct's rows ``State|ExitCode`` of one job; None if there are none.

    A requeued job has one row per attempt, in the order of the attempts.
    """
    rows = [row for row in answer.splitlines() if row.strip()]
    if not rows:
        return None
    state, _, code = rows[-1].strip().partition("|")
    return JobStatus(state_from_slurm(state), exit_detail=exit_detail(code))


def job_rows(answer: str) -> Iterator[tuple[str, str]]:
    """Return (job id, text) of the rows ``id|text`` of squeue or sacct with an ordinary job.

    Array tasks (``70_3``, ``70_[1-9]``), components of heterogeneous jobs (``70+0``) and job steps (``70.batch``) are
    left out: this package submits none of them as a job.
    """
    for row in answer.splitlines():
        job_id, _, text = row.strip().partition("|")
        if re.fullmatch(r"[0-9]+", job_id):
            yield job_id, text


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
