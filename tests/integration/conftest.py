"""Scans and the deployment of the integration tests; the services are those of real_services."""

from contextlib import suppress

import numpy as np
import pytest
from flow_runs import ROOT, service
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from real_services import (
    REAL_SCAN,
    folder,
    hologram,
    services,
    shared_storage,
    take,
    tiled_client,
    tiled_server,
)

from bluesky_multislice.measurement import Beam, Detector, ScanGeometry
from bluesky_multislice.recipe import DEPLOYMENT

__all__ = ["folder", "hologram", "services", "shared_storage", "take", "tiled_client", "tiled_server"]


@pytest.fixture(scope="session")
def real_scan():
    """The real near-field ptychography file."""
    if not REAL_SCAN.is_file():
        pytest.skip("the real scan lies beside the project, in ../shared/data, and is not there")
    return REAL_SCAN


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


@pytest.fixture(scope="module")
def deployment(prefect_server):
    """The deployment as a facility makes it, from deploy/prefect.yaml."""
    with get_client(sync_client=True) as client:
        # Another module of this process may have made it on the same server.
        with suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name="multislice", type="process"))
    words = ("--no-prompt", "deploy", "--prefect-file", str(ROOT / "deploy" / "prefect.yaml"), "--all")
    with service("prefect", *words) as command:
        assert command.wait(120) == 0
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(DEPLOYMENT)
