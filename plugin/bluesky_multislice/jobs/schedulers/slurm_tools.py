"""One call of one of Slurm's tools: no shell, no defaults of the caller's environment, and two kinds of failure."""

import os
import subprocess

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs.schedulers.environment import for_slurm

_LIMIT_S = 60.0
_NO_ANSWER = (
    "Unable to contact slurm controller",
    "Socket timed out",
    "Connection refused",
    "Connection reset",
    "connect failure",
    "Transport endpoint is not connected",
    "Zero Bytes were transmitted",
    "slurm_load_jobs error: Unexpected message",
    "temporarily unavailable",
    "Slurm backup controller in standby mode",
    "Munge encode failed",
)


class SlurmRefusedError(SchedulerError):
    """Slurm answered, and the answer is no."""


class NoAnswerError(SchedulerError):
    """Slurm cannot be asked at the moment."""


def call(tool: str, *words: str) -> str:
    """Return what a tool prints.

    Raises:
        NoAnswerError: the controller is down or slow.
        SlurmRefusedError: the tool fails for any other reason.
        SchedulerError: the tool is not installed.
    """
    try:
        done = subprocess.run(
            [tool, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=for_slurm(os.environ),
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise SchedulerError(
            "Slurm's tools must be installed where the flow runs.", got=f"no {tool}.", remedy="install slurm-client."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(
            "Slurm must answer.", got=f"nothing from {tool} for {_LIMIT_S:.0f} s.", remedy="wait for slurmctld."
        ) from error
    if done.returncode == 0:
        return done.stdout
    said = done.stderr.strip() or f"{tool}: exit status {done.returncode}"
    if any(words in said for words in _NO_ANSWER):
        raise NoAnswerError("Slurm must answer.", got=f"{said}.", remedy="wait for slurmctld.")
    raise SlurmRefusedError("Slurm must do what it is asked.", got=f"{said}.", remedy="see the tool's words.")
