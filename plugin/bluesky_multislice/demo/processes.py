"""Starts, monitors and ends service processes, including their child processes."""

import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from bluesky_multislice.errors import MultisliceError

_GRACE_S = 10.0


class ServiceError(MultisliceError):
    """A service did not start, or ended unexpectedly."""


@dataclass(frozen=True)
class Service:
    """A running process.

    Attributes:
        name: name of the service in messages.
        process: the process.
        log: file with its output.
    """

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, name: str, command: Sequence[str], environment: Mapping[str, str], logs: Path) -> "Service":
        """Start a process in a separate session, so that Ctrl-C reaches only the demo, which then ends its services."""
        log = logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                start_new_session=True,
            )
        return cls(name, process, log)

    def wait_until(self, ready: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Wait until a service answers.

        Raises:
            ServiceError: the process ended, or did not answer in time.
        """
        end = time.monotonic() + limit_s
        while not ready():
            self.check()
            if time.monotonic() > end:
                raise ServiceError(
                    f"The {self.name} must answer within {limit_s:g} s.",
                    got="no answer.",
                    remedy=f"read {self.log}.",
                )
            time.sleep(0.2)

    def check(self) -> None:
        """Raise ServiceError if the process has ended."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-15:]
            raise ServiceError(
                f"The {self.name} must keep running.",
                got=f"exit status {code}; the last lines of its log:\n" + "\n".join(lines) + "\n",
                remedy=f"read {self.log}.",
            )

    def stop(self) -> None:
        """End the process and its descendants: SIGTERM first, SIGKILL after a grace time."""
        try:
            root = psutil.Process(self.process.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        if self.process.poll() is None:
            self.process.terminate()
        _, alive = psutil.wait_procs(family, timeout=_GRACE_S)
        for survivor in alive:
            survivor.kill()
        psutil.wait_procs(alive, timeout=_GRACE_S)
        self.process.wait()


def free_port(preferred: int) -> int:
    """Return the preferred port if it is free, otherwise any free port."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise ServiceError("A server needs a free port.", got="no free port on 127.0.0.1.", remedy="stop other servers.")
