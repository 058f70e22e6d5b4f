"""Creates the Prefect flow run that reconstructs a Bluesky run."""

import logging
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.states import Failed

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.listener.wanted import RequestedRun
from bluesky_multislice.recipe import DEPLOYMENT, LIVE_QUEUE

AUTOMATIC_TAG = "automatic"


def start_flow_run(run: RequestedRun) -> UUID:
    """Create the flow run for a Bluesky run and return its id. The same run and recipe always give the same flow run.

    For an invalid recipe, the flow run is created in a failed state with the error, so that it is visible in Prefect.

    Raises:
        ObjectNotFound: Prefect does not have the deployment.
        httpx.HTTPError: Prefect does not answer, or refuses the request.
    """
    recipe_error = run.recipe if isinstance(run.recipe, RecipeError) else None
    parameters = {} if isinstance(run.recipe, RecipeError) else {"recipe": run.recipe.model_dump(mode="json")}
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        flow_run = client.create_flow_run_from_deployment(
            deployment.id,
            parameters={"run_uid": run.uid, **parameters},
            state=Failed(message=f"{type(recipe_error).__name__}: {recipe_error}") if recipe_error else None,
            name=f"{run.uid:.8} with an invalid recipe" if recipe_error else None,
            tags=[AUTOMATIC_TAG],
            idempotency_key=run.key,
            work_queue_name=LIVE_QUEUE if deployment.work_pool_name else None,
        )
        if recipe_error:
            entry = {
                "name": "multislice.listener",
                "level": logging.ERROR,
                "message": str(recipe_error),
                "timestamp": datetime.now(UTC).isoformat(),
                "flow_run_id": str(flow_run.id),
            }
            client.create_logs([entry])
    return flow_run.id
