"""Services that several test folders share: each is the real one."""

import os

# Read when Prefect's server starts: it would report to its makers.
os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
# Read when tiled is imported: an answer 500 that a test provokes is not asked for again for 45 s.
os.environ["TILED_RETRY_ATTEMPTS"] = "2"
# Read when torch is imported: several threads on the little tensors of a test mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Where there are several, those that wait sleep as soon as those of jobs do: tests beside them need the cores.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import pytest
from prefect.testing.utilities import prefect_test_harness


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server of its own for the whole test session."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
