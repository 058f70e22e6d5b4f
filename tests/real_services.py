"""A real Tiled server for the session, scans to put into it, and the environment in which flows find both."""

from pathlib import Path

import pytest
from small_scan import hologram_scan
from tiled.client import from_uri
from tiled.server import SimpleTiledServer

from bluesky_multislice.simulation.beamline import run_scan

SHARED = Path(__file__).resolve().parents[2] / "shared"
REAL_SCAN = SHARED.resolve() / "data" / "PETRAIII_P25_Near_Field_Ptycho.cxi"

# All Tiled servers of one process answer to the API key of the youngest: tests with their own server take this key too.
TILED_KEY = "secretofthistest"


@pytest.fixture(scope="session")
def shared_storage(tmp_path_factory):
    """A folder that tests and the Tiled server see."""
    return tmp_path_factory.mktemp("storage")


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


@pytest.fixture(scope="session")
def hologram():
    """A scan of a thick little sample."""
    return hologram_scan()


@pytest.fixture
def take(tiled_client, folder, hologram):
    """Takes that scan on the simulated beamline, with other frames or metadata where a test wants them."""

    def take(frames=None, *, progress=None, **metadata):
        stored = hologram.frames.source if frames is None else frames
        return run_scan(tiled_client, stored, hologram.geometry, folder=folder, metadata=metadata, progress=progress)

    return take


@pytest.fixture
def services(prefect_server, tiled_server, shared_storage, monkeypatch):
    """The environment that tells the flow, the worker and the listener where the services are."""
    monkeypatch.setenv("MULTISLICE_TILED_URI", tiled_server.uri.partition("?")[0])
    monkeypatch.setenv("TILED_API_KEY", TILED_KEY)
    monkeypatch.setenv("MULTISLICE_JOBS_ROOT", str(shared_storage / "jobs"))
