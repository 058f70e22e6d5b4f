"""Creates the Prefect flow run that reconstructs a Bluesky run."""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.states import Failed

from bluesky_multislice.errors import MultisliceError
from bluesky_multislice.listener.wanted import RequestedRun
from bluesky_multislice.recipe import DEPLOYMENT, LIVE_QUEUE

AUTOMATIC_TAG = "automatic"
_LONGEST_TEXT = 4000
"""Characters of an error that are shown: a request may be megabytes long."""


def shortened(text: str) -> str:
    """Return a text without the middle of a very long one."""
    half = _LONGEST_TEXT // 2
    return text if len(text) <= _LONGEST_TEXT else f"{text[:half]} … {text[-half:]}"


def start_flow_run(run: RequestedRun, *, queue: str = LIVE_QUEUE, tags: Sequence[str] = ()) -> UUID:
    """Create the flow run for a Bluesky run and return its id. The same run and recipe always give the same flow run.

    For an invalid request, the flow run is created in a failed state with the error, so that it is visible in Prefect.

    Args:
        run: the run.
        queue: the pool's queue in which the flow run waits.
        tags: tags of the flow run beside ``automatic``.

    Raises:
        ObjectNotFound: Prefect does not have the deployment.
        httpx.HTTPError: Prefect does not answer, or refuses the request.
    """
    error = run.recipe if isinstance(run.recipe, MultisliceError) else None
    parameters = {} if isinstance(run.recipe, MultisliceError) else {"recipe": run.recipe.model_dump(mode="json")}
    text = shortened(str(error))
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        flow_run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"run_uid": run.uid, **parameters},
            state=Failed(message=f"{type(error).__name__}: {text}") if error else None,
            name=f"{run.uid:.8} with an invalid request" if error else None,
            tags=[AUTOMATIC_TAG, *tags],
            idempotency_key=run.key,
            work_queue_name=queue if deployment.work_pool_name else None,
        )
        if error:
            entry = {
                "name": "multislice.listener",
                "level": logging.ERROR,
                "message": text,
                "timestamp": datetime.now(UTC).isoformat(),
                "flow_run_id": str(flow_run.id),
            }
            client.create_logs([entry])
    return flow_run.id
