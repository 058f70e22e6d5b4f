"""Sets up the Prefect server: a work pool that limits the number of jobs, two queues with priorities, the deployment.

Live scans have priority over reruns: a worker takes flow runs from the queue ``live`` first, and reruns can never fill
the pool. The limits belong to the pool and the queue, so a waiting flow run does not occupy a worker process.
"""

from typing import Any, cast

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import load_flow_from_entrypoint
from prefect.types.entrypoint import EntrypointType

from bluesky_multislice.recipe import FLOW, LIVE_QUEUE, POOL, RERUN_QUEUE

_ENTRYPOINT = "flows.reconstruct_scan:reconstruct_scan"


def deploy(*, jobs: int = 4) -> None:
    """Create or update pool, queues and deployment on the configured Prefect server.

    Args:
        jobs: largest number of simultaneous jobs; if more than one, one of them is reserved for live scans.
    """
    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", concurrency_limit=jobs))
        except ObjectAlreadyExists:
            client.update_work_pool(POOL, WorkPoolUpdate(concurrency_limit=jobs))
        _make_queue(client, LIVE_QUEUE, priority=1, limit=None)
        _make_queue(client, RERUN_QUEUE, priority=2, limit=max(1, jobs - 1))
    flow = load_flow_from_entrypoint(_ENTRYPOINT)
    deployment = cast(
        Any,
        flow.to_deployment(
            FLOW, work_pool_name=POOL, work_queue_name=RERUN_QUEUE, entrypoint_type=EntrypointType.MODULE_PATH
        ),
    )
    deployment.apply()  # returns a coroutine only in async code


def _make_queue(client: SyncPrefectClient, name: str, *, priority: int, limit: int | None) -> None:
    settings = {"priority": priority, "concurrency_limit": limit}
    try:
        client.create_work_queue(name, work_pool_name=POOL, **settings)
    except ObjectAlreadyExists:
        queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
        client.update_work_queue(queue.id, **settings)
