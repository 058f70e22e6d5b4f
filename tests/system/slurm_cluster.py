"""The Slurm that system tests run: started by tests/system/slurm/start.sh, asked with Slurm's own tools."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

SCRIPTS = Path(__file__).parent / "slurm"
TOOLS = ("slurmctld", "slurmd", "sbatch", "munged", "slurmdbd", "mariadbd")
PORTS = 4
LIMIT_S = 120


@dataclass(frozen=True)
class Cluster:
    """Folder of the configuration, and the names of the nodes."""

    root: Path
    nodes: tuple[str, str]

    def ask(self, *words):
        """What one of Slurm's tools prints."""
        return subprocess.run(
            words, env=self.environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    @property
    def environment(self):
        return os.environ | {"SLURM_CONF": str(self.root / "slurm.conf")}

    @property
    def has_control_groups(self):
        return "proctrack/cgroup" in (self.root / "slurm.conf").read_text()

    def process(self, daemon):
        return int((self.root / "pid" / daemon).read_text())

    def stop_controller(self):
        end_process(self.process("slurmctld"))

    def start_controller(self, *options):
        subprocess.run(["slurmctld", *options], env=self.environment, check=True, timeout=60)
        eventually(self.answers)
        eventually(
            lambda: self.ask("sinfo", "--noheader", "--Node", "--partition=gpu", "--responding").count("\n") == 2
        )

    @contextmanager
    def without(self, node):
        """Lose a node for a while."""
        self.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
        try:
            yield
        finally:
            self.ask("scontrol", "update", f"nodename={node}", "state=resume")

    def answers(self):
        return subprocess.run(["scontrol", "ping"], env=self.environment, capture_output=True).returncode == 0


@contextmanager
def running_cluster(*options):
    """Run a cluster; its folder is short, for sockets lie in it."""
    root, port = Path(tempfile.mkdtemp(prefix="multislice-slurm-")), free_ports()
    try:
        subprocess.run([SCRIPTS / "start.sh", root, str(port), *options], check=True, timeout=300)
        yield Cluster(root, (f"v{port}-1", f"v{port}-2"))
    finally:
        subprocess.run([SCRIPTS / "stop.sh", root], check=True, timeout=120)


def why_not():
    """Why no Slurm can be started here; None where one can."""
    if os.geteuid() != 0:
        return "Slurm's daemons need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    return f"not installed: {', '.join(missing)} (make debian-packages)" if missing else None


def free_ports():
    """The first of a row of free ports; test processes that start clusters at the same time take turns in the rows."""
    worker, workers = (
        int(os.environ.get(f"PYTEST_XDIST_{name}", "0").lstrip("gw")) for name in ("WORKER", "WORKER_COUNT")
    )
    for first in range(17300 + 2 * PORTS * worker, 30000, 2 * PORTS * max(workers, 1)):
        if all(is_free(port) for port in range(first, first + PORTS)):
            return first
    raise RuntimeError("no row of free ports")


def is_free(port):
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def eventually(condition, limit_s=LIMIT_S, every_s=0.2):
    end = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(every_s)
    return value


def end_process(pid):
    process = psutil.Process(pid)
    process.terminate()
    process.wait(60)


def processes_of(folder):
    """Every process, other than Slurm's, that names the folder in its command line or works in it."""
    found = []
    for process in psutil.process_iter():
        try:
            words, place = process.cmdline(), process.cwd()
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if str(folder) in words or place == str(folder):
            found.append(process)
    return found
