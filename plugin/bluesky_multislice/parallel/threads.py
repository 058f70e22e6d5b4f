"""How many threads a rank computes with."""

from collections.abc import Mapping

from bluesky_multislice.errors import PlanError

THREADS = "OMP_NUM_THREADS"
"""What PyTorch, numba and the libraries below them go by."""


def requested_threads(environment: Mapping[str, str]) -> int | None:
    """Return how many threads an environment asks for; None where it says nothing.

    Args:
        environment: variables by name; of a list, one number for each level of nesting, the first counts.

    Raises:
        PlanError: it asks for none, or for what is no number; OpenMP would take all cores then, and say so nowhere.
    """
    asked = environment.get(THREADS, "").strip()
    if not asked:
        return None
    first = asked.partition(",")[0].strip()
    if not (first.isascii() and first.isdigit() and int(first) > 0):
        raise PlanError(
            "A rank computes with one thread or more.",
            got=f"{THREADS}={asked}.",
            remedy=f"leave {THREADS} out, so that the ranks share the cores, or set it to a number from 1 on.",
        )
    return int(first)
