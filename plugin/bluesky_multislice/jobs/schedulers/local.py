"""Jobs on this machine: a launcher of ranks, or a job's only rank, as a child process.

The scheduler finds a job's processes by their command line, which contains the job folder. That works after the
launcher was killed, and from another process. A single rank needs no launcher.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import psutil

from bluesky_multislice.jobs.early_ranks import JOB_MODULE, EarlyRanks
from bluesky_multislice.jobs.environment import local_environment
from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile
from bluesky_multislice.parallel import THREADS, requested_threads
from bluesky_multislice.planning import usable_cores

_LAUNCHER = "bluesky_multislice.parallel.start_ranks"


class LocalScheduler:
    """Runs jobs on this machine. A job's id is the path of its folder.

    Args:
        profile: interpreter, container and environment of the job.
        module: module that every rank runs, with the job folder as its argument.
        grace_s: seconds between asking a cancelled job to end and killing it.
        poll_s: seconds between two status checks.
        early: process that has imported the next job; None: submission starts one.
    """

    on_this_machine: ClassVar[bool] = True

    def __init__(
        self,
        profile: SiteProfile | None = None,
        *,
        module: str = JOB_MODULE,
        grace_s: float = 20.0,
        poll_s: float = 0.5,
        early: EarlyRanks | None = None,
    ) -> None:
        self._profile = profile or SiteProfile()
        self._module, self._grace_s, self.poll_s, self._early = module, grace_s, poll_s, early
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
        """Start the job in a separate session."""
        job = Job(str(folder.path), folder)
        folder.prepare_submission()
        folder.write_submission(name=name, job_id=job.id)
        ranks = allocation.ranks_per_node
        early = self._early.start(ranks, self._environment(ranks)) if self._early else None
        self._children[job.id] = early or self._start(folder, allocation)
        return job

    def status(self, job: Job) -> JobStatus:
        """Return the status of the job. Another process may have started it."""
        child = self._children.get(job.id)
        # On systems other than Linux, the ranks keep running after the launcher was killed.
        if (child and child.poll() is None) or self._processes(job.id):
            return JobStatus(JobState.RUNNING)
        if job.folder.cancelled.exists():
            return JobStatus(JobState.CANCELLED)
        if job.folder.interrupted.exists():
            return JobStatus(JobState.INTERRUPTED)
        if job.folder.result.exists():
            return JobStatus(JobState.COMPLETED)
        code = child.returncode if child else 0
        detail = f"ended by signal {-code}" if code < 0 else f"exit status {code}"
        return JobStatus(JobState.FAILED, exit_detail=detail if child else "ended without a result")

    def cancel(self, job: Job) -> None:
        """Send SIGTERM to all processes of the job; after the grace time, kill the remaining processes."""
        members = self._processes(job.id)
        if not members and self.status(job).ended:
            return
        job.folder.cancelled.touch()
        for member in members:
            _signal(member, psutil.Process.terminate)
        psutil.wait_procs(members, timeout=self._grace_s)
        survivors = self._processes(job.id)
        for survivor in survivors:
            _signal(survivor, psutil.Process.kill)
        psutil.wait_procs(survivors, timeout=5)
        if child := self._children.get(job.id):
            child.wait()

    def tail(self, job: Job, lines: int) -> str:
        """Return the last lines of the job's output."""
        return job.folder.read_log(lines)

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the job of that name that was started in the folder; None if there is none."""
        record = folder.read_record()
        return Job(record.job_id, folder) if record.job_id and record.name == name else None

    def active_jobs(self) -> dict[str, str]:
        """Return name → id of this user's jobs on this machine."""
        found = {arguments[-1] for arguments in _command_lines(self._module).values()}
        records = {job_id: JobFolder(Path(job_id)).read_record() for job_id in found}
        return {record.name: job_id for job_id, record in records.items() if record.job_id}

    def manual_command(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the shell command that starts the job manually."""
        return shlex.join(self._command(folder, allocation))

    def _command(self, folder: JobFolder, allocation: Allocation) -> list[str]:
        python = [*self._profile.container, self._profile.python or sys.executable]
        ranks = allocation.ranks_per_node
        launcher = ["-m", _LAUNCHER, f"--nproc-per-node={ranks}"] if ranks > 1 else []
        # Without a buffer: the log shows what a rank printed before it was killed.
        return [*python, "-u", *launcher, "-m", self._module, str(folder.path)]

    def _start(self, folder: JobFolder, allocation: Allocation) -> subprocess.Popen[bytes]:
        with folder.log.open("ab") as log:
            return subprocess.Popen(
                self._command(folder, allocation),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(allocation.ranks_per_node),
                start_new_session=True,
            )

    def _environment(self, ranks: int) -> dict[str, str]:
        """Return the job's environment, in which the ranks share the cores."""
        environment = local_environment()
        if requested_threads(environment) is None:
            environment[THREADS] = str(max(1, usable_cores() // ranks))
        return environment | dict(self._profile.environment)

    def _processes(self, job_id: str) -> list[psutil.Process]:
        found = _command_lines(self._module)
        return [process for process, arguments in found.items() if arguments[-1] == job_id]


def _command_lines(module: str) -> dict[psutil.Process, list[str]]:
    """Return the processes that run a module, with their command-line arguments."""
    found = {}
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if module in arguments:
            found[process] = arguments
    return found


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.NoSuchProcess:
        return
