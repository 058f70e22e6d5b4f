"""Jobs on a cluster: sbatch, scontrol, squeue, sacct and scancel, as processes with lists of arguments."""

import os
import re
import shlex
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder
from bluesky_multislice.jobs.safe_names import safe_name
from bluesky_multislice.jobs.schedulers.batch_script import batch_script
from bluesky_multislice.jobs.schedulers.local import JOB_MODULE
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile
from bluesky_multislice.jobs.schedulers.slurm_states import exit_detail, never_starts, state_of, status_of_record
from bluesky_multislice.jobs.schedulers.slurm_tools import NoAnswerError, SlurmRefusedError, call

_NOT_ASKED_AGAIN_S = 1.0


class SlurmScheduler:
    """Runs jobs on a cluster. A job's id is Slurm's number.

    Args:
        profile: the site.
        module: module that every rank runs, with the job folder as its argument.
        grace_s: seconds for which a job that Slurm does not show, or a result that the file system does not, may yet
            appear.
        poll_s: seconds between two questions about a job; clusters serve many users.
        patience_s: seconds for which a submission is tried again where Slurm does not answer.
    """

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
                "A job folder's path has no %, no backslash and no control characters: Slurm takes them for patterns.",
                got=f"{str(folder.path)!r}.",
                remedy="choose another folder for jobs (MULTISLICE_JOBS_ROOT).",
            )
        try:
            script = batch_script(self._profile, allocation, name=safe_name(name), module=self._module)
            _script_of(folder).write_text(script)
            for path in (_exit_status_of(folder), folder.submission):
                path.unlink(missing_ok=True)
        except OSError as error:
            raise SchedulerError(
                "A job folder must be writable.",
                got=f"{error}.",
                remedy="make room on the shared storage, or correct the folder's owner.",
            ) from error
        job = self._sbatch(folder, name)
        if never_starts(status := self.status(job)):
            self.cancel(job)
            raise _refused(f"its reason to wait is {status.reason}.", folder)
        try:
            folder.write_submission(name=name, job_id=job.id)
        except BaseException:
            self.cancel(job)
            raise
        return job

    def status(self, job: Job) -> JobStatus:
        """Return how the job is, as Slurm, its accounting or the job's own folder say."""
        try:
            status = self._controllers_word(job) or self._accountings_word(job)
        except NoAnswerError as error:
            return JobStatus(JobState.NOT_VISIBLE, reason=f"Slurm does not answer: {error}")
        status = status or _folders_word(job.folder)
        if status is None:
            return self._within_grace(job, "Slurm does not show it", "Slurm knows no such job")
        if status.state is JobState.COMPLETED and not job.folder.result.exists():
            return self._within_grace(job, "its result is not visible yet", "ended without a result")
        self._missing_since.pop(job.id, None)
        return _with_the_jobs_own_word(job, status) if status.state is JobState.FAILED else status

    def cancel(self, job: Job) -> None:
        """Take the job out of the queue, or end it; return when it has ended."""
        if self.status(job).ended:
            return
        end = time.monotonic() + self._patience_s
        while True:
            try:
                call("scancel", _number(job.id))
            except (NoAnswerError, SlurmRefusedError):
                # Asked again below; Slurm also refuses where the job has ended meanwhile.
                if time.monotonic() > end:
                    raise
            status = self.status(job)
            if status.ended:
                break
            if time.monotonic() > end:
                raise SchedulerError(
                    "A cancelled job must end.", got=f"job {job.id} is {status}.", remedy=f"scancel --full {job.id}."
                )
            time.sleep(_NOT_ASKED_AGAIN_S)
        if status.state is JobState.CANCELLED:
            # The folder may be read-only or full, and Slurm knows it anyway.
            with suppress(OSError):
                job.folder.cancelled.touch()

    def tail(self, job: Job, lines: int) -> str:
        """Return the last lines that the job printed."""
        return job.folder.read_log(lines)

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the newest job of that name in the folder; None where none was ever submitted."""
        submission = folder.read_submission()
        if submission and submission["name"] == name:
            return Job(_number(submission["job_id"]), folder)
        found = self._find(folder, name)
        if found:
            folder.write_submission(name=name, job_id=found)
        return Job(found, folder) if found else None

    def live(self) -> dict[str, str]:
        """Return name → id of this user's jobs that wait or run."""
        lines = call("squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%j").splitlines()
        return {name: job_id for job_id, _, name in (line.partition("|") for line in lines)}

    def by_hand(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the command that starts the job by hand, for a shell."""
        return shlex.join(["sbatch", f"--chdir={folder.path}", str(_script_of(folder))])

    def _sbatch(self, folder: JobFolder, name: str) -> Job:
        end = time.monotonic() + self._patience_s
        while True:
            try:
                answer = call("sbatch", "--parsable", f"--chdir={folder.path}", str(_script_of(folder)))
                return Job(_number(answer.strip().partition(";")[0]), folder)
            except SlurmRefusedError as error:
                raise _refused(error.got, folder) from error
            except NoAnswerError:
                if time.monotonic() > end:
                    raise
                time.sleep(_NOT_ASKED_AGAIN_S)
                # Slurm may have taken the job and only its answer got lost.
                if found := self._find(folder, name):
                    return Job(found, folder)

    def _find(self, folder: JobFolder, name: str) -> str | None:
        """Return the newest job of that name in the folder that Slurm or its accounting knows."""
        who = (f"--user={os.getuid()}", f"--name={safe_name(name)}", "--noheader")
        lines = call("squeue", *who, "--states=all", "--format=%i|%Z").splitlines()
        # Without accounting slurmctld's memory is all there is.
        with suppress(NoAnswerError, SlurmRefusedError):
            options = ("--allocations", "--parsable2", "--starttime=now-60days", "--format=JobID,WorkDir")
            lines += call("sacct", *who, *options).splitlines()
        found = [number for number, _, place in (line.partition("|") for line in lines) if Path(place) == folder.path]
        return max(found, key=int, default=None)

    def _controllers_word(self, job: Job) -> JobStatus | None:
        try:
            return status_of_record(call("scontrol", "show", "job", "--oneliner", _number(job.id)))
        except SlurmRefusedError:
            return None

    def _accountings_word(self, job: Job) -> JobStatus | None:
        options = ("--noheader", "--allocations", "--parsable2", "--format=State,ExitCode")
        try:
            line = call("sacct", f"--jobs={_number(job.id)}", *options).strip()
        except (NoAnswerError, SlurmRefusedError):
            return None
        word, _, code = line.partition("|")
        status = JobStatus(state_of(word), exit_detail=exit_detail(code))
        # Accounting lags: what it holds for running may have ended long ago.
        return status if line and status.ended else None

    def _within_grace(self, job: Job, reason: str, at_last: str) -> JobStatus:
        since = self._missing_since.setdefault(job.id, time.monotonic())
        if time.monotonic() - since < self._grace_s:
            return JobStatus(JobState.NOT_VISIBLE, reason=reason)
        return JobStatus(JobState.FAILED, reason=at_last)


def _script_of(folder: JobFolder) -> Path:
    return folder.path / "job.sh"


def _exit_status_of(folder: JobFolder) -> Path:
    return folder.path / "exit-status"


def _folders_word(folder: JobFolder) -> JobStatus | None:
    """Return how the batch script says that it ended, where Slurm has forgotten the job."""
    try:
        code = int(_exit_status_of(folder).read_text())
    except (OSError, ValueError):
        return None
    return JobStatus(JobState.FAILED if code else JobState.COMPLETED, exit_detail=exit_detail(str(code)))


def _with_the_jobs_own_word(job: Job, status: JobStatus) -> JobStatus:
    """Return the status of a failed job that stopped at a checkpoint, or that Slurm ended for its memory.

    Slurm calls a job by its batch script's exit status, also where a step ran out of memory.
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
        remedy=f"correct the site's profile or the recipe's resources; see {_script_of(folder)}.",
    )


def _number(job_id: str) -> str:
    if not re.fullmatch(r"[0-9]{1,20}", job_id):
        raise SchedulerError(
            "A Slurm job's id is a number.", got=f"{job_id!r}.", remedy="remove submission.json from the job folder."
        )
    return job_id
