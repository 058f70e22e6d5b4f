"""The environment of jobs: what they must not see, and what their threads go by."""

import re
from collections.abc import Mapping

KEYS = "KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^PREFECT_|^TILED_"
"""Names of variables, in capitals, that hold keys or belong to the services; an expression that bash reads, too."""

SPINS = "1000"
"""Turns that a thread spins for the others before it sleeps (``GOMP_SPINCOUNT``).

With GNU's 300,000, a job with a thread for every core took forty times as long as soon as another program ran: the
threads that have a core spin until the one that has none gets its turn. A thousand cost a job that is alone a tenth of
its time at most.
"""

_OF_SLURM = re.compile("^(SBATCH|SLURM|SQUEUE|SACCT|SCANCEL)_")


def names_a_key(variable: str) -> bool:
    """Return whether a variable of the environment looks like one that holds a key, or belongs to the services."""
    return re.search(KEYS, variable.upper()) is not None


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without keys and settings of the services: a job needs neither."""
    return {name: value for name, value in environment.items() if not names_a_key(name)}


def for_slurm(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for Slurm's tools: without keys and their defaults, such as ``SBATCH_EXPORT``."""
    return {
        name: value
        for name, value in without_keys(environment).items()
        if name == "SLURM_CONF" or not _OF_SLURM.match(name)
    }
