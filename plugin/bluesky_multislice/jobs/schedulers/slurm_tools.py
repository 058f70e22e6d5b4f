"""Calls of Slurm's command-line tools, without a shell and without defaults from the caller's environment."""

import os
import subprocess

from bluesky_multislice.errors import SchedulerError
from bluesky_multislice.jobs.environment import slurm_environment

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
    """Slurm answered and refused the request."""


class NoAnswerError(SchedulerError):
    """Slurm does not answer at the moment."""


def call(tool: str, *arguments: str) -> str:
    """Return the output of a tool.

    Raises:
        NoAnswerError: the controller is down or slow.
        SlurmRefusedError: the tool fails for any other reason.
        SchedulerError: the tool is not installed.
    """
    try:
        done = subprocess.run(
            [tool, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=slurm_environment(os.environ),
            timeout=_LIMIT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise SchedulerError(
            "Slurm's tools must be installed where the flow runs.", got=f"no {tool}.", remedy="install slurm-client."
        ) from error
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(
            "Slurm must answer.", got=f"no answer from {tool} for {_LIMIT_S:.0f} s.", remedy="wait for slurmctld."
        ) from error
    if done.returncode == 0:
        return done.stdout
    message = done.stderr.strip() or f"{tool}: exit status {done.returncode}"
    if any(text in message for text in _NO_ANSWER):
        raise NoAnswerError("Slurm must answer.", got=f"{message}.", remedy="wait for slurmctld.")
    raise SlurmRefusedError("Slurm must accept the request.", got=f"{message}.", remedy=f"see the message of {tool}.")
