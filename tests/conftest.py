"""Services that several test folders share: each is the real one."""

import os
from itertools import chain, groupby, zip_longest

# Read when Prefect's server starts: it would report to its makers.
os.environ |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}
# Read when tiled is imported: an answer 500 that a test provokes is not asked for again for 45 s.
os.environ["TILED_RETRY_ATTEMPTS"] = "2"
# Read when torch is imported: several threads on the little tensors of a test mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from prefect.testing.utilities import prefect_test_harness


def pytest_collection_modifyitems(items):
    """Let files whose tests wait for services and files that compute take turns, so that cores have work meanwhile."""
    folder = {"system": "waits", "integration": "waits", "physics": "computes"}
    kinds = {"waits": [], "computes": [], "short": []}
    for path, tests in groupby(items, lambda item: item.path):
        kinds[next((folder[name] for name in path.parts[::-1] if name in folder), "short")].append(list(tests))
    turns = zip_longest(kinds["waits"], kinds["computes"], fillvalue=[])
    items[:] = chain.from_iterable([*chain.from_iterable(turns), *kinds["short"]])


@pytest.fixture(scope="session")
def prefect_server():
    """A Prefect server of its own for the whole test session."""
    with prefect_test_harness(server_startup_timeout=120):
        yield
