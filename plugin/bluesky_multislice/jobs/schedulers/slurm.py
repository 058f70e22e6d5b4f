"""Jobs on a Slurm cluster: calls sbatch, scontrol, squeue, sacct and scancel."""

import os
import re
import shlex
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder
from bluesky_multislice.jobs.safe_names import safe_name
from bluesky_multislice.jobs.schedulers.batch_script import batch_script
from bluesky_multislice.jobs.schedulers.local import JOB_MODULE
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile
from bluesky_multislice.jobs.schedulers.slurm_states import (
    can_never_start,
    exit_detail,
    job_rows,
    last_accounting_status,
    parse_job_record,
)
from bluesky_multislice.jobs.schedulers.slurm_tools import NoAnswerError, SlurmRefusedError, call

_RETRY_INTERVAL_S = 1.0


class SlurmScheduler:
    """Runs jobs on a Slurm cluster. A job's id is Slurm's job number.

    Args:
        profile: the site profile.
        module: module that every rank runs, with the job folder as its argument.
        grace_s: seconds to wait for a job that Slurm does not list yet, or for a result that is not visible yet.
        poll_s: seconds between two status checks.
        patience_s: seconds during which submission and cancellation are repeated if Slurm does not answer.
    """

    on_this_machine: ClassVar[bool] = False

    def __init__(
        self,
        profile: SiteProfile,
        *,
        module: str = JOB_MODULE,
        grace_s: float = 60.0,
        patience_s: float = 300.0,
        poll_s: float = 3.0,
    ) -> None:
        self._profile, self._module, self.poll_s = profile, module, poll_s
        self._grace_s, self._patience_s = grace_s, patience_s
        self._missing_since: dict[str, float] = {}

    def submit(self, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
        """Write the batch script into the folder and submit it."""
        if re.search(r"[%\\]", str(folder.path)) or not str(folder.path).isprintable():
            raise SchedulerError(
                "A job folder's path must not contain %, backslashes or control characters: Slurm interprets them.",
                got=f"{str(folder.path)!r}.",
                remedy="choose another jobs folder (MULTISLICE_JOBS_ROOT).",
            )
        try:
            script = batch_script(self._profile, allocation, name=safe_name(name), module=self._module)
            _script_path(folder).write_text(script)
            _exit_status_path(folder).unlink(missing_ok=True)
            folder.prepare_submission()
        except OSError as error:
            raise SchedulerError(
                "A job folder must be writable.",
                got=f"{error}.",
                remedy="free space on the shared storage, or correct the folder's owner.",
            ) from error
        job = self._sbatch(folder, name)
        if can_never_start(status := self.status(job)):
            self.cancel(job)
            raise _refused(f"job {job.id} cannot start, Slurm's reason is {status.reason}.", folder)
        try:
            folder.write_submission(name=name, job_id=job.id)
        except BaseException:
            self.cancel(job)
            raise
        return job

    def status(self, job: Job) -> JobStatus:
        """Return the status of the job from the controller, else from the accounting, else from the job folder."""
        try:
            status = self._status_from_controller(job) or self._status_from_accounting(job)
        except NoAnswerError as error:
            return JobStatus(JobState.NOT_VISIBLE, reason=f"Slurm does not answer: {error}")
        status = status or _status_from_folder(job.folder)
        if status is None:
            return self._within_grace(job, "Slurm does not list it", "Slurm does not know the job")
        if status.state is JobState.COMPLETED and not job.folder.result.exists():
            return self._within_grace(job, "its result is not visible yet", "ended without a result")
        self._missing_since.pop(job.id, None)
        return _more_specific_failure(job, status) if status.state is JobState.FAILED else status

    def cancel(self, job: Job) -> None:
        """Remove the job from the queue or end it. Returns after it has ended."""
        if self.status(job).ended:
            return
        end = time.monotonic() + self._patience_s
        while True:
            try:
                call("scancel", _number(job.id))
            except (NoAnswerError, SlurmRefusedError):
                # The status is checked below: Slurm also refuses if the job has already ended.
                if time.monotonic() > end:
                    raise
            status = self.status(job)
            if status.ended:
                break
            if time.monotonic() > end:
                raise SchedulerError(
                    "A cancelled job must end.", got=f"job {job.id} is {status}.", remedy=f"scancel --full {job.id}."
                )
            time.sleep(_RETRY_INTERVAL_S)
        if status.state is JobState.CANCELLED:
            # The folder may be read-only or full; Slurm has the state too.
            with suppress(OSError):
                job.folder.cancelled.touch()

    def tail(self, job: Job, lines: int) -> str:
        """Return the last lines of the job's output."""
        return job.folder.read_log(lines)

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the newest job of that name in the folder; None if none was ever submitted."""
        record = folder.read_record()
        if record.job_id and record.name == name:
            return Job(_number(record.job_id), folder)
        found = self._find(folder, name)
        if found:
            folder.prepare_submission()
            folder.write_submission(name=name, job_id=found)
        return Job(found, folder) if found else None

    def active_jobs(self) -> dict[str, str]:
        """Return name → id of this user's pending and running jobs."""
        answer = call("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%j")
        return {name: job_id for job_id, name in job_rows(answer)}

    def manual_command(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the shell command that starts the job manually."""
        return shlex.join(["sbatch", f"--chdir={folder.path}", str(_script_path(folder))])

    def _sbatch(self, folder: JobFolder, name: str) -> Job:
        end = time.monotonic() + self._patience_s
        while True:
            try:
                answer = call("sbatch", "--parsable", f"--chdir={folder.path}", str(_script_path(folder)))
                return Job(_number(answer.strip().partition(";")[0]), folder)
            except SlurmRefusedError as error:
                raise _refused(error.got, folder) from error
            except NoAnswerError:
                if time.monotonic() > end:
                    raise
                time.sleep(_RETRY_INTERVAL_S)
                # Slurm may have accepted the job although its answer was lost.
                if found := self._find(folder, name):
                    return Job(found, folder)

    def _find(self, folder: JobFolder, name: str) -> str | None:
        """Return the id of the newest job of that name and folder, from the controller and the accounting."""
        who = (f"--user={os.getuid()}", f"--name={safe_name(name)}", "--noheader")
        answers = [call("squeue", *who, "--states=all", "--format=%i|%Z")]
        # Without accounting, only jobs in slurmctld's memory are found.
        with suppress(NoAnswerError, SlurmRefusedError):
            options = ("--allocations", "--parsable2", "--starttime=now-60days", "--format=JobID,WorkDir")
            answers.append(call("sacct", *who, *options))
        rows = (row for answer in answers for row in job_rows(answer))
        found = [job_id for job_id, directory in rows if Path(directory) == folder.path]
        return max(found, key=int, default=None)

    def _status_from_controller(self, job: Job) -> JobStatus | None:
        try:
            return parse_job_record(call("scontrol", "show", "job", "--oneliner", _number(job.id)))
        except SlurmRefusedError:
            return None

    def _status_from_accounting(self, job: Job) -> JobStatus | None:
        options = ("--noheader", "--allocations", "--parsable2", "--format=State,ExitCode")
        try:
            status = last_accounting_status(call("sacct", f"--jobs={_number(job.id)}", *options))
        except (NoAnswerError, SlurmRefusedError):
            return None
        # Accounting lags behind: a job that it lists as running may have ended.
        return status if status and status.ended else None

    def _within_grace(self, job: Job, reason: str, failure_reason: str) -> JobStatus:
        since = self._missing_since.setdefault(job.id, time.monotonic())
        if time.monotonic() - since < self._grace_s:
            return JobStatus(JobState.NOT_VISIBLE, reason=reason)
        return JobStatus(JobState.FAILED, reason=failure_reason)


def _script_path(folder: JobFolder) -> Path:
    return folder.path / "job.sh"


def _exit_status_path(folder: JobFolder) -> Path:
    return folder.path / "exit-status"


def _status_from_folder(folder: JobFolder) -> JobStatus | None:
    """Return the status from the exit status that the batch script wrote; None if there is none."""
    try:
        code = int(_exit_status_path(folder).read_text())
    except (OSError, ValueError):
        return None
    return JobStatus(JobState.FAILED if code else JobState.COMPLETED, exit_detail=exit_detail(str(code)))


def _more_specific_failure(job: Job, status: JobStatus) -> JobStatus:
    """Return a more specific status of a failed job: interrupted at a checkpoint, or out of memory.

    Slurm reports the exit status of the batch script, even if a job step ran out of memory.
    """
    if status.exit_detail == f"exit status {INTERRUPTED_STATUS}":
        return replace(status, state=JobState.INTERRUPTED)
    if re.search(rf"oom.kill.*StepId={_number(job.id)}\.", job.folder.read_log(1000)):
        return replace(status, state=JobState.OUT_OF_MEMORY)
    return status


def _refused(got: str, folder: JobFolder) -> SchedulerError:
    return SchedulerError(
        "Slurm must accept the job.",
        got=got,
        remedy=f"correct the site profile or the recipe's resources; see {_script_path(folder)}.",
    )


def _number(job_id: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}", job_id):
        raise SchedulerError(
            "A Slurm job id must be a number.", got=f"{job_id!r}.", remedy="remove record.json from the job folder."
        )
    return job_id
