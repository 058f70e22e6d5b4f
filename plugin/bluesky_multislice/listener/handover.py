"""From a wanted run to a Prefect flow run."""

import logging
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.states import Failed

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.listener.wanted import WantedRun
from bluesky_multislice.recipe import DEPLOYMENT, LIVE_QUEUE

AUTOMATIC_TAG = "automatic"


def hand_over(run: WantedRun) -> UUID:
    """Start the flow of a run and return the flow run's id. The same run and recipe give the same flow run again.

    A run whose recipe is wrong gets a flow run that has failed with the error, so that whoever looks for it finds it.

    Raises:
        ObjectNotFound: Prefect has no such deployment.
        httpx.HTTPError: Prefect does not answer or refuses.
    """
    wrong = run.recipe if isinstance(run.recipe, RecipeError) else None
    parameters = {} if isinstance(run.recipe, RecipeError) else {"recipe": run.recipe.model_dump(mode="json")}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        flow_run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"run_uid": run.uid, **parameters},
            state=Failed(message=f"{type(wrong).__name__}: {wrong}") if wrong else None,
            name=f"{run.uid:.8} with a wrong recipe" if wrong else None,
            tags=[AUTOMATIC_TAG],
            idempotency_key=run.key,
            work_queue_name=LIVE_QUEUE if deployment.work_pool_name else None,
        )
        if wrong:
            entry = {
                "name": "multislice.listener",
                "level": logging.ERROR,
                "message": str(wrong),
                "timestamp": datetime.now(UTC).isoformat(),
                "flow_run_id": str(flow_run.id),
            }
            client.create_logs([entry])
    return flow_run.id
