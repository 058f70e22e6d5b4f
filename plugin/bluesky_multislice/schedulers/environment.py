"""What of a process's environment a job must not see."""

import re
from collections.abc import Mapping

_KEY = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|^PREFECT_|^TILED_", re.IGNORECASE)


def names_a_key(variable: str) -> bool:
    """Return whether a variable of the environment looks like one that holds a key, or belongs to the services."""
    return _KEY.search(variable) is not None


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without keys and settings of the services: a job needs neither."""
    return {name: value for name, value in environment.items() if not names_a_key(name)}
