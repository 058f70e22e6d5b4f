"""Number of threads of a rank."""

from collections.abc import Mapping

from bluesky_multislice.errors import PlanError

THREADS = "OMP_NUM_THREADS"
"""Environment variable with the number of threads of PyTorch, numba and the libraries below them."""


def requested_threads(environment: Mapping[str, str]) -> int | None:
    """Return the number of threads set in an environment; None if it is not set.

    Args:
        environment: variables by name; of a list with one number per nesting level, the first number counts.

    Raises:
        PlanError: the value is not a positive number; OpenMP would silently use all cores.
    """
    asked = environment.get(THREADS, "").strip()
    if not asked:
        return None
    first = asked.partition(",")[0].strip()
    if not (first.isascii() and first.isdigit() and int(first) > 0):
        raise PlanError(
            "A rank needs one thread or more.",
            got=f"{THREADS}={asked}.",
            remedy=f"unset {THREADS}, so that the ranks share the cores, or set it to a positive number.",
        )
    return int(first)
