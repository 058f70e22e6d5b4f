"""What happens to the job of a flow run that was cancelled, crashed, or told to end."""

from datetime import UTC, datetime, timedelta

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import AwaitingRetry

from bluesky_multislice.interchange.job_folder import JobFolder
from bluesky_multislice.schedulers import make_scheduler, read_site
from bluesky_multislice.settings import ServiceSettings
from flows.job_record import Outcome, write_outcome
from flows.owned_job import OwnedJob

MOST_ATTEMPTS = 10
"""How often a flow run is run, all its crashes together."""

_PAUSE_S = 3.0


def end_job(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """End the job of a flow run that was cancelled, also one that waits or outlived its flow's process."""
    settings = ServiceSettings.from_environment()
    folder = JobFolder.under(settings.jobs_root, flow_run.parameters["run_uid"], str(flow_run.id))
    site = read_site(settings.site)
    log = flow_run_logger(flow_run, flow)
    job = OwnedJob(make_scheduler(site), folder, name=str(flow_run.id), most_restarts=site.most_restarts, log=log)
    job.cancel()
    if folder.path.exists():
        write_outcome(folder, Outcome("cancelled", state.message or "The flow run was cancelled."))


def come_back(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Run a flow run again whose process was killed; one that may not be takes its job with it."""
    with get_client(sync_client=True) as client:
        if run_again(client, client.read_flow_run(flow_run.id), state):
            return
    end_job(flow, flow_run, state)


def run_again(client: SyncPrefectClient, flow_run: FlowRun, crash: State) -> bool:
    """Schedule another attempt of a flow run: it goes on with its job, or publishes what that has left.

    Args:
        client: of the Prefect server.
        flow_run: as the server has it now.
        crash: how the last attempt ended.

    Returns:
        Whether there will be one. No worker would start a flow run without a deployment, and none is run for ever.
    """
    if flow_run.deployment_id is None or flow_run.run_count >= MOST_ATTEMPTS:
        return False
    # Not at once: whoever reports this attempt's end must not meet the next one.
    later = datetime.now(UTC) + timedelta(seconds=_PAUSE_S * max(1, flow_run.run_count))
    client.set_flow_run_state(flow_run.id, AwaitingRetry(scheduled_time=later, message=crash.message), force=True)
    return True


def is_left_to_the_next_attempt(flow_run: FlowRun) -> bool:
    """Return whether a flow run whose process is told to end leaves its job to the process that comes after it.

    It does unless it was cancelled or deleted, or nobody would start it again.
    """
    if flow_run.deployment_id is None:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run.id).state
    except ObjectNotFound:
        return False
    except httpx.HTTPError:
        return True  # whoever finds the flow run crashed decides
    return state is None or not (state.is_cancelling() or state.is_cancelled())
