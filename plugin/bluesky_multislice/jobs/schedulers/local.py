"""Jobs on this machine: torchrun as a child process.

torchrun puts every rank into a session of its own, so no process group holds them all. They are found by their
command line, which names the job folder; that also finds them when torchrun was killed, and from another process.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from bluesky_multislice.jobs.job_folder import JobFolder
from bluesky_multislice.jobs.schedulers.environment import SPINS, without_keys
from bluesky_multislice.jobs.schedulers.scheduler import Job, JobState, JobStatus
from bluesky_multislice.jobs.schedulers.site import Allocation, SiteProfile
from bluesky_multislice.parallel import THREADS, requested_threads
from bluesky_multislice.planning import usable_cores

JOB_MODULE = "bluesky_multislice.jobs.job"


class LocalScheduler:
    """Runs jobs on this machine. A job's id is the path of its folder.

    Args:
        profile: interpreter, container and environment of the job.
        module: module that every rank runs, with the job folder as its argument.
        grace_s: seconds between asking a cancelled job to end and killing it.
        poll_s: seconds between two looks at a job.
    """

    def __init__(
        self,
        profile: SiteProfile | None = None,
        *,
        module: str = JOB_MODULE,
        grace_s: float = 20.0,
        poll_s: float = 0.5,
    ) -> None:
        self._profile = profile or SiteProfile()
        self._module, self._grace_s, self.poll_s = module, grace_s, poll_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def submit(self, folder: JobFolder, *, name: str, allocation: Allocation) -> Job:
        """Start torchrun in a session of its own."""
        job = Job(str(folder.path), folder)
        folder.write_submission(name=name, job_id=job.id)
        with folder.log.open("ab") as log:
            self._children[job.id] = subprocess.Popen(
                self._command(folder, allocation),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(allocation.ranks_per_node),
                start_new_session=True,
            )
        return job

    def status(self, job: Job) -> JobStatus:
        """Return how the job is, of one that another process started too."""
        child = self._children.get(job.id)
        # Where the kernel does not end them (it is no Linux), ranks whose torchrun was killed compute on.
        if (child and child.poll() is None) or self._processes(job.id):
            return JobStatus(JobState.RUNNING)
        if job.folder.cancelled.exists():
            return JobStatus(JobState.CANCELLED)
        if job.folder.interrupted.exists():
            return JobStatus(JobState.INTERRUPTED)
        if job.folder.result.exists():
            return JobStatus(JobState.COMPLETED)
        code = child.returncode if child else 0
        detail = f"torchrun ended by signal {-code}" if code < 0 else f"torchrun's exit status {code}"
        return JobStatus(JobState.FAILED, exit_detail=detail if child else "ended without a result")

    def cancel(self, job: Job) -> None:
        """Ask torchrun and its ranks to end, and after the grace time kill what is left."""
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
        """Return the last lines that the job printed."""
        return job.folder.read_log(lines)

    def adopt(self, folder: JobFolder, *, name: str) -> Job | None:
        """Return the job of that name that was started in the folder; None where none was."""
        submission = folder.read_submission()
        return Job(submission["job_id"], folder) if submission and submission["name"] == name else None

    def live(self) -> dict[str, str]:
        """Return name → id of this user's jobs on this machine."""
        found = {words[-1] for words in _command_lines(self._module).values()}
        submissions = {job_id: JobFolder(Path(job_id)).read_submission() for job_id in found}
        return {submission["name"]: job_id for job_id, submission in submissions.items() if submission}

    def by_hand(self, folder: JobFolder, *, name: str, allocation: Allocation) -> str:
        """Return the command that starts the job by hand, for a shell."""
        return shlex.join(self._command(folder, allocation))

    def _command(self, folder: JobFolder, allocation: Allocation) -> list[str]:
        python = [*self._profile.container, self._profile.python or sys.executable]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={allocation.ranks_per_node}"]
        return [*python, *torchrun, "-m", self._module, str(folder.path)]

    def _environment(self, ranks: int) -> dict[str, str]:
        """Ranks share the cores, unless somebody says otherwise; they talk over the machine's loopback interface."""
        environment = without_keys(os.environ)
        if requested_threads(environment) is None:
            environment[THREADS] = str(max(1, usable_cores() // ranks))
        # torchrun would die of a SIGUSR1 that it is not told to pass on, and leave its ranks alone.
        environment.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        environment.setdefault("GOMP_SPINCOUNT", SPINS)
        return environment | dict(self._profile.environment)

    def _processes(self, job_id: str) -> list[psutil.Process]:
        return [process for process, words in _command_lines(self._module).items() if words[-1] == job_id]


def _command_lines(module: str) -> dict[psutil.Process, list[str]]:
    """Return the processes that run a module, with the words of their command lines."""
    found = {}
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if module in words:
            found[process] = words
    return found


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.NoSuchProcess:
        return
