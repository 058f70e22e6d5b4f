"""A real Tiled server for the session, and scans to put into it."""

import os

# Read when tiled is imported: an answer 500 that a test provokes is not asked for again for 45 s.
os.environ["TILED_RETRY_ATTEMPTS"] = "2"

from pathlib import Path

import numpy as np
import pytest
from tiled.client import from_uri
from tiled.server import SimpleTiledServer

from bluesky_multislice.geometry import Beam, Detector, ScanGeometry

REAL_SCAN = Path(__file__).resolve().parents[3] / "shared" / "data" / "PETRAIII_P25_Near_Field_Ptycho.cxi"


@pytest.fixture(scope="session")
def real_scan():
    """The real near-field ptychography file."""
    if not REAL_SCAN.is_file():
        pytest.skip("the real scan lies beside the project, in ../shared/data, and is not there")
    return REAL_SCAN


@pytest.fixture(scope="session")
def shared_storage(tmp_path_factory):
    """A folder that tests and the Tiled server see."""
    return tmp_path_factory.mktemp("storage")


# All Tiled servers of one process answer to the API key of the youngest: tests with their own server take this key too.
TILED_KEY = "secretofthistest"


@pytest.fixture(scope="session")
def tiled_server(tmp_path_factory, shared_storage):
    with SimpleTiledServer(
        tmp_path_factory.mktemp("tiled"), api_key=TILED_KEY, readable_storage=[shared_storage, REAL_SCAN.parent]
    ) as server:
        yield server


@pytest.fixture(scope="session")
def tiled_client(tiled_server):
    client = from_uri(tiled_server.uri)
    yield client
    client.context.close()


@pytest.fixture
def folder(shared_storage, tmp_path):
    """A folder of the test's own in the server's readable storage."""
    own = shared_storage / tmp_path.name
    own.mkdir()
    return own


@pytest.fixture
def geometry():
    """Four views of a near-field ptychography scan with angles, on a detector of (6, 8) pixels."""
    rng = np.random.default_rng(7)
    return ScanGeometry(
        technique="ptychography",
        beam=Beam(wavelength_m=1e-10, focus_distance_m=3.65e-3),
        detector=Detector((6, 8), (55e-6, 50e-6), "near_field"),
        distance_m=np.full(4, 1.12),
        angle_rad=rng.uniform(-np.pi, np.pi, 4),
        position_m=rng.normal(scale=1e-6, size=(4, 2)),
    )


@pytest.fixture
def frames():
    return np.random.default_rng(8).uniform(0, 100, (4, 6, 8)).astype(np.float32)
