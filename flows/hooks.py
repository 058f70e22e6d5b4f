"""What happens to the job of a flow run that was cancelled, crashed, or told to end."""

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import make_scheduler, read_site
from bluesky_multislice.recipe import ServiceSettings
from flows.job_record import Outcome, write_outcome
from flows.owned_job import OwnedJob

MOST_ATTEMPTS = 10
"""How often a flow run is run, all its crashes together."""


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


def leave_job(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Leave the job of a crashed flow run to the next attempt, which the reaper asks for; without one, end the job.

    The attempt is not asked for here: the worker reports the crash once more after this hook, over any other state.
    """
    with get_client(sync_client=True) as client:
        if may_run_again(client.read_flow_run(flow_run.id)):
            flow_run_logger(flow_run, flow).info("The job is left to the next attempt")
            return
    end_job(flow, flow_run, state)


def may_run_again(flow_run: FlowRun) -> bool:
    """Return whether a crashed flow run gets another attempt: a worker can start it, and has not done so too often."""
    return flow_run.deployment_id is not None and flow_run.run_count < MOST_ATTEMPTS


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
