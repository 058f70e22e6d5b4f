"""Prefect hooks that end the job of a cancelled or crashed flow run, or keep it for the next attempt."""

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger

from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import make_scheduler, read_site
from bluesky_multislice.recipe import ServiceSettings
from flows.folder_writes import record_outcome
from flows.owned_job import OwnedJob

MOST_ATTEMPTS = 10
"""Largest number of attempts of a flow run."""


def end_job(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """End the job of a cancelled flow run, even if the job is pending or the flow's process has ended."""
    settings = ServiceSettings.from_environment()
    folder = JobFolder.under(settings.jobs_root, flow_run.parameters["run_uid"], str(flow_run.id))
    site = read_site(settings.site)
    log = flow_run_logger(flow_run, flow)
    job = OwnedJob(make_scheduler(site), folder, name=str(flow_run.id), most_restarts=site.most_restarts, log=log)
    job.cancel()
    if folder.path.exists():
        record_outcome(folder, lambda record: record.cancel(state.message or "The flow run was cancelled."))


def keep_job_for_next_attempt(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """Keep the job of a crashed flow run for the next attempt; end the job if there will be none and it has no result.

    The reaper schedules the next attempt, or publishes the result. This hook cannot: the worker reports the crash
    again after the hook, which overwrites any other state.
    """
    log = flow_run_logger(flow_run, flow)
    with get_client(sync_client=True) as client:
        if may_run_again(client.read_flow_run(flow_run.id)):
            log.info("The job is kept for the next attempt")
            return
    settings = ServiceSettings.from_environment()
    if JobFolder.under(settings.jobs_root, flow_run.parameters["run_uid"], str(flow_run.id)).result.exists():
        log.info("The job's result is kept until the reaper publishes it")
        return
    end_job(flow, flow_run, state)


def may_run_again(flow_run: FlowRun) -> bool:
    """Return whether a crashed flow run gets another attempt: it has a deployment, and attempts are left."""
    return flow_run.deployment_id is not None and flow_run.run_count < MOST_ATTEMPTS


def next_attempt_takes_over(flow_run: FlowRun) -> bool:
    """Return whether the job of a flow run whose process is being terminated is kept for the next attempt.

    It is kept unless the flow run was cancelled or deleted, or has no deployment that could start it again.
    """
    if flow_run.deployment_id is None:
        return False
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(flow_run.id).state
    except ObjectNotFound:
        return False
    except httpx.HTTPError:
        return True  # the reaper decides when it finds the flow run crashed
    return state is None or not (state.is_cancelling() or state.is_cancelled())
