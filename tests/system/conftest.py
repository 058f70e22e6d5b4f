"""One demo for all system tests: from the command line, kept up while they look at it, then ended by Ctrl-C."""

import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

MULTISLICE = Path(sys.executable).with_name("multislice")
TILED_PORT = 8000
LIMIT_S = 600


@dataclass(frozen=True)
class Demo:
    out: Path
    report: dict[str, Any]
    taken_port: int

    def printed(self):
        return (self.out / "printed.txt").read_text()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            owner.bind(("127.0.0.1", TILED_PORT))
            owner.listen()
        except OSError:
            pass  # another server has it already, which serves the test as well
        command = [MULTISLICE, "demo", "--technique", "holography", "--out", out, "--keep-serving"]
        with (out / "printed.txt").open("w") as printed:
            process = subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT)
        try:
            wait_until_served(process, out)
            yield Demo(out, json.loads((out / "report.json").read_text()), TILED_PORT)
        finally:
            process.send_signal(signal.SIGINT)
            status = process.wait(120)
    assert status == 0
    assert not processes_of(out)


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
