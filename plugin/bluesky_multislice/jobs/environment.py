"""Environment variables of jobs: secrets that are removed, and the spin count of OpenMP threads."""

import os
import re
import sys
from collections.abc import Mapping

SECRET_NAMES = "KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^PREFECT_|^TILED_"
"""Regular expression for upper-case names of variables that hold secrets or service settings; valid in bash too."""

SPIN_COUNT = "1000"
"""Number of iterations that a thread busy-waits at a barrier before it sleeps (``GOMP_SPINCOUNT``).

With GNU's default of 300,000, a job with one thread per core ran forty times slower as soon as another program ran:
threads busy-wait for a thread that has no core. With 1000, a job that has the machine to itself is at most 10 % slower.
"""

_OF_SLURM = re.compile("^(SBATCH|SLURM|SQUEUE|SACCT|SCANCEL)_")


def holds_secret(variable: str) -> bool:
    """Return whether an environment variable seems to hold a secret or a setting of the services."""
    return re.search(SECRET_NAMES, variable.upper()) is not None


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without secrets and service settings. A job needs neither."""
    return {name: value for name, value in environment.items() if not holds_secret(name)}


def local_environment() -> dict[str, str]:
    """Return the environment of a job on this machine, whose ranks communicate over the loopback interface."""
    environment = without_secrets(os.environ)
    # By default SIGUSR1 kills the launcher but not its ranks. With this setting the launcher forwards the signal.
    environment.setdefault("PET_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    environment.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    return environment


def slurm_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for Slurm's tools, without secrets and without user defaults such as ``SBATCH_EXPORT``."""
    return {
        name: value
        for name, value in without_secrets(environment).items()
        if name == "SLURM_CONF" or not _OF_SLURM.match(name)
    }
