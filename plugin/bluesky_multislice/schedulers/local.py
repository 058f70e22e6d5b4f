"""Jobs on this machine: torchrun as a child process.

torchrun puts every rank into a session of its own, so no process group holds them all. They are found by their
command line, which names the job folder; that also finds them when torchrun was killed, and from another process.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil

from bluesky_multislice.interchange.job_folder import JobFolder
from bluesky_multislice.schedulers.scheduler import JobState

JOB_MODULE = "bluesky_multislice.job"


class LocalScheduler:
    """Runs jobs on this machine. A job's id is the path of its folder.

    Args:
        module: module that every rank runs, with the job folder as its argument.
        grace_s: seconds between asking a cancelled job to end and killing it.
    """

    def __init__(self, *, module: str = JOB_MODULE, grace_s: float = 20.0) -> None:
        self._module, self._grace_s = module, grace_s
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def submit(self, folder: JobFolder, *, ranks: int) -> str:
        """Start torchrun in a session of its own and return the job's id."""
        job_id = str(folder.path)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        with folder.log.open("ab") as log:
            self._children[job_id] = subprocess.Popen(
                [*command, "-m", self._module, job_id],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(ranks),
                start_new_session=True,
            )
        return job_id

    def status(self, job_id: str) -> JobState:
        """Return the state, of a job that another process started too."""
        child = self._children.get(job_id)
        if child.poll() is None if child else self._processes(job_id):
            return JobState.RUNNING
        if job_id in self._cancelled:
            return JobState.CANCELLED
        if JobFolder(Path(job_id)).interrupted.exists():
            return JobState.INTERRUPTED
        done = child.returncode == 0 if child else True
        return JobState.COMPLETED if done and JobFolder(Path(job_id)).result.exists() else JobState.FAILED

    def cancel(self, job_id: str) -> None:
        """Ask torchrun and its ranks to end, and after the grace time kill what is left."""
        members = self._processes(job_id)
        if not members and self.status(job_id).ended:
            return
        self._cancelled.add(job_id)
        for member in members:
            _signal(member, psutil.Process.terminate)
        psutil.wait_procs(members, timeout=self._grace_s)
        survivors = self._processes(job_id)
        for survivor in survivors:
            _signal(survivor, psutil.Process.kill)
        psutil.wait_procs(survivors, timeout=5)
        if child := self._children.get(job_id):
            child.wait()

    def tail(self, job_id: str, lines: int) -> str:
        """Return the last lines that the job printed."""
        log = JobFolder(Path(job_id)).log
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""

    def _processes(self, job_id: str) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
            except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                continue
            if self._module in words and words[-1] == job_id:
                found.append(process)
        return found


def _signal(process: psutil.Process, send: Callable[[psutil.Process], None]) -> None:
    try:
        send(process)
    except psutil.NoSuchProcess:
        return


def _environment(ranks: int) -> dict[str, str]:
    """One thread a core over all ranks; the ranks of one machine talk over its loopback interface."""
    environment = dict(os.environ)
    environment["OMP_NUM_THREADS"] = str(max(1, _cores() // ranks))
    # torchrun would die of a SIGUSR1 that it is not told to pass on, and leave its ranks alone.
    environment.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    return environment


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
