"""A process that imports the job while the command that plans it still imports, reads and plans."""

import json
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import IO, Self, cast

from bluesky_multislice.jobs.environment import local_environment
from bluesky_multislice.jobs.job_folder import JobFolder

JOB_MODULE = "bluesky_multislice.jobs.job"
"""Module that every rank runs."""

_STARTER = "bluesky_multislice.parallel.start_early"


class EarlyRanks:
    """A process of this interpreter that will be a local job's only rank, or the launcher of its ranks.

    A context manager. At its end, a process without an order is killed; one with an order goes on.

    Args:
        folder: folder of the coming job; it must exist.
    """

    def __init__(self, folder: JobFolder) -> None:
        with folder.log.open("ab") as log:
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(
                [sys.executable, "-u", "-m", _STARTER, "-m", JOB_MODULE, str(folder.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=local_environment(),
                start_new_session=True,
            )

    def start(self, ranks: int, environment: dict[str, str]) -> subprocess.Popen[bytes] | None:
        """Order the process to start the ranks.

        Args:
            ranks: number of ranks.
            environment: all environment variables of the job.

        Returns:
            The process, which may fail like any job; None if it has ended before.
        """
        if self._process is None or self._process.poll() is not None:
            return None
        process, self._process = self._process, None
        order = json.dumps({"ranks": ranks, "environment": environment})
        with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as stdin:
            stdin.write(order.encode() + b"\n")
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
