"""What the Prefect server needs: a work pool that limits jobs, queues by priority, and the deployment.

Live scans go before reruns: a worker takes what waits in the queue ``live`` first, and reruns never fill the pool.
The limits are the pool's and the queue's own, so that waiting flow runs take no process of a worker.
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
    """Make pool, queues and deployment on the Prefect server of the present settings, or bring them up to date.

    Args:
        jobs: most jobs at a time; one of them, where there are more, is kept for live scans.
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
    deployment.apply()  # a coroutine in async code only


def _make_queue(client: SyncPrefectClient, name: str, *, priority: int, limit: int | None) -> None:
    settings = {"priority": priority, "concurrency_limit": limit}
    try:
        client.create_work_queue(name, work_pool_name=POOL, **settings)
    except ObjectAlreadyExists:
        queue = client.read_work_queue_by_name(name, work_pool_name=POOL)
        client.update_work_queue(queue.id, **settings)
