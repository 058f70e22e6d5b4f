"""A demo from the command line, kept up while its tests look at it, then ended by Ctrl-C; and a Slurm."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from slurm_cluster import running_cluster, why_not

MULTISLICE = Path(sys.executable).with_name("multislice")
PREFERRED_PORTS = (8000, 4200)
LIMIT_S = 600
EPOCHS = "12"
"""Enough that multislice is far ahead; by default, a fit takes three times as many."""


@dataclass(frozen=True)
class Demo:
    out: Path
    report: dict[str, Any]
    taken_ports: tuple[int, ...]

    def printed(self):
        return (self.out / "printed.txt").read_text()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with ExitStack() as owners:
        for port in PREFERRED_PORTS:
            take_port(owners.enter_context(socket.socket()), port)
        command = [MULTISLICE, "demo", "--technique", "holography", "--out", out, "--epochs", EPOCHS, "--keep-serving"]
        with (out / "printed.txt").open("w") as printed:
            process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        try:
            wait_until_served(process, out)
            yield Demo(out, json.loads((out / "report.json").read_text()), PREFERRED_PORTS)
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(120)
    assert status == 0
    assert not processes_of(out)


def take_port(owner, port):
    owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Another server may have it already, which serves the test as well.
    with suppress(OSError):
        owner.bind(("127.0.0.1", port))
        owner.listen()


def wait_until_served(process, out):
    end = time.monotonic() + LIMIT_S
    while "Ctrl-C ends the services" not in (out / "printed.txt").read_text():
        assert process.poll() is None, (out / "printed.txt").read_text()
        assert time.monotonic() < end, (out / "printed.txt").read_text()
        time.sleep(0.5)


def processes_of(out):
    """Every process that names the demo's folder in its command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            continue
        if any(str(out) in word for word in words):
            found.append(process)
    return found


@pytest.fixture(scope="session")
def cluster():
    """A Slurm of two nodes for the whole test session."""
    if reason := why_not():
        pytest.skip(reason)
    with running_cluster() as started:
        former = os.environ.get("SLURM_CONF")
        os.environ["SLURM_CONF"] = str(started.root / "slurm.conf")
        yield started
        if former is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = former
