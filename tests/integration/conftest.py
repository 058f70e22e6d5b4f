"""A real Tiled server for the session, and scans to put into it."""

import os

# Read when tiled is imported: an answer 500 that a test provokes is not asked for again for 45 s.
os.environ["TILED_RETRY_ATTEMPTS"] = "2"

from pathlib import Path

import numpy as np
import pytest
from flow_runs import ROOT, service
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from small_scan import hologram_scan
from tiled.client import from_uri
from tiled.server import SimpleTiledServer

from bluesky_multislice.geometry import Beam, Detector, ScanGeometry
from bluesky_multislice.settings import DEPLOYMENT
from bluesky_multislice.simulation.beamline import run_scan

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL_SCAN = SHARED.resolve() / "data" / "PETRAIII_P25_Near_Field_Ptycho.cxi"


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


@pytest.fixture(scope="module")
def deployment(prefect_server):
    """The deployment as a facility makes it, from deploy/prefect.yaml."""
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name="multislice", type="process"))
        except ObjectAlreadyExists:
            pass
    words = ("--no-prompt", "deploy", "--prefect-file", str(ROOT / "deploy" / "prefect.yaml"), "--all")
    with service("prefect", *words) as command:
        assert command.wait(120) == 0
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(DEPLOYMENT)
