"""The reaper: handles jobs whose flow process has died, and results that were never published.

A job folder records whether the job is done (``outcome.json``) and whether a flow is alive (``followed``). For all
other folders the reaper asks Prefect. It runs a flow run again if its process died; the new process adopts the job. It
ends the job of a cancelled, failed or deleted flow run. It publishes a completed result that has no flow run.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Crashed

from bluesky_multislice import catalog
from bluesky_multislice.errors import MultisliceError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import JobState, Scheduler, make_scheduler, read_site
from bluesky_multislice.listener import tiled_key
from bluesky_multislice.recipe import FLOW, ServiceSettings
from flows.hooks import may_run_again
from flows.job_record import HEARTBEAT_TIMEOUT_S, Outcome, has_heartbeat, job_folders, read_outcome, write_outcome
from flows.publication import publish_once

_log = logging.getLogger(__name__)
_NO_FOLDER_TIMEOUT_S = 600.0
"""A flow run that is pending or running for this time and still has no job folder counts as dead."""
_CRASH_SETTLING_S = 60.0
"""Seconds to wait after a crash before the flow run is scheduled again.

During this time the worker may report the crash again, which overwrites any other state, or may still run the hooks.
Prefect 3.8's worker ends if it gets a flow run that it still holds.
"""
_ACTIVE_STATES = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


@dataclass(frozen=True)
class ReaperAction:
    """An action of the reaper.

    Attributes:
        flow_run_id: the flow run; it may have been deleted.
        action: description of the action.
    """

    flow_run_id: UUID
    action: str


def reap_jobs(settings: ServiceSettings) -> list[ReaperAction]:
    """Handle every job that has no live flow.

    Local jobs are visible only on the machine that runs them, so call this function there.

    Args:
        settings: addresses and paths of the services.

    Returns:
        The actions that were taken.

    Raises:
        SchedulerError: the scheduler does not answer.
        httpx.HTTPError: Prefect does not answer.
    """
    scheduler = make_scheduler(read_site(settings.site))
    active = scheduler.active_jobs()
    now = _filesystem_time(settings.jobs_root)
    actions = []
    with get_client(sync_client=True) as client:
        for flow_run_id, folder in job_folders(settings.jobs_root):
            alive = has_heartbeat(folder, now=now)
            if read_outcome(folder) is None:
                action = _handle_open_job(client, scheduler, settings, flow_run_id, folder, alive=alive)
            else:
                action = _end(scheduler, flow_run_id, folder) if str(flow_run_id) in active and not alive else ""
            actions += [ReaperAction(flow_run_id, action)] if action else []
        for flow_run in _flow_runs_without_folder(client, settings):
            action = _schedule_again(client, flow_run)
            actions += [ReaperAction(flow_run.id, action)] if action else []
    for taken in actions:
        _log.info("Flow run %s: %s", taken.flow_run_id, taken.action)
    return actions


def keep_reaping(settings: ServiceSettings, every_s: float) -> NoReturn:
    """Call ``reap_jobs`` periodically, also after errors.

    Args:
        settings: addresses and paths of the services.
        every_s: seconds between two calls.
    """
    while True:
        try:
            reap_jobs(settings)
        except Exception as error:  # Prefect, the scheduler or the jobs folder may be back for the next call
            _log.warning("%s: %s; next attempt in %g s", type(error).__name__, error, every_s)
        time.sleep(every_s)


def _handle_open_job(
    client: SyncPrefectClient,
    scheduler: Scheduler,
    settings: ServiceSettings,
    flow_run_id: UUID,
    folder: JobFolder,
    *,
    alive: bool,
) -> str:
    """Handle a folder without an outcome. Return the action; an empty string if none was necessary."""
    try:
        flow_run = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        why = "its flow run was deleted"
        return "" if alive else _publish_or_end(scheduler, settings, flow_run_id, folder, why)
    state = flow_run.state
    if state is None or state.is_scheduled() or state.is_paused():
        return ""
    if state.is_crashed():
        # Ignore the heartbeat: it was written before the crash.
        if _age_s(state) < _CRASH_SETTLING_S:
            return ""
        return _schedule_again(client, flow_run) or _publish_or_end(
            scheduler, settings, flow_run_id, folder, "its flow run has crashed too often"
        )
    if alive or (state.type in _ACTIVE_STATES and _age_s(state) < HEARTBEAT_TIMEOUT_S):
        return ""
    if state.is_cancelling():
        action = _end(scheduler, flow_run_id, folder)
        client.set_flow_run_state(flow_run.id, Cancelled(message="Its process had already ended."), force=True)
        return action or "marked as cancelled"
    if state.is_cancelled():
        return _end(scheduler, flow_run_id, folder)
    if state.is_failed():
        return _end(scheduler, flow_run_id, folder, Outcome("failed", state.message or ""))
    if state.is_completed():
        write_outcome(folder, Outcome("published", state.message or ""))
        return ""
    # Prefect lists it as active. If it may not be run again, the next call finds it crashed and ends its job.
    return _schedule_again(client, flow_run)


def _schedule_again(client: SyncPrefectClient, flow_run: FlowRun) -> str:
    """Schedule a flow run whose process has died again. Return the action; an empty string if no attempt is left."""
    state = flow_run.state
    if state is None or not state.is_crashed():
        state = Crashed(message="Its process sends no heartbeat.")
        client.set_flow_run_state(flow_run.id, state, force=True)
    if not may_run_again(flow_run):
        return ""
    client.set_flow_run_state(flow_run.id, AwaitingRetry(message=state.message), force=True)
    return "run again"


def _publish_or_end(
    scheduler: Scheduler, settings: ServiceSettings, flow_run_id: UUID, folder: JobFolder, why: str
) -> str:
    """Publish the result of a job without a flow run; end the job if it has no result yet."""
    job = scheduler.adopt(folder, name=str(flow_run_id))
    if job is None or scheduler.status(job).state is not JobState.COMPLETED:
        return _end(scheduler, flow_run_id, folder, Outcome("cancelled", why))
    run_uid = folder.read_job()["origin"]["run_uid"]
    try:
        client = catalog.connect(settings.tiled_uri, tiled_key(settings))
        with closing(client.context):
            start = catalog.find_run(client, run_uid).start
            path = publish_once(client, folder, run_uid=run_uid, start=start, made_by={"flow_run": {"lost": why}})
    except MultisliceError as error:
        return f"{why}; its result in {folder.path} is not published: {error}"
    return f"{why}; its result is published at {path}"


def _end(
    scheduler: Scheduler,
    flow_run_id: UUID,
    folder: JobFolder,
    outcome: Outcome = Outcome("cancelled", "The flow run was cancelled."),  # noqa: B008  (it is frozen)
) -> str:
    """End a pending or running job. Return the action; an empty string if there was no such job."""
    job = scheduler.adopt(folder, name=str(flow_run_id))
    active = job is not None and not scheduler.status(job).ended
    if job is not None and active:
        scheduler.cancel(job)
    if read_outcome(folder) is None:
        write_outcome(folder, outcome)
    return "job ended" if active else ""


def _flow_runs_without_folder(client: SyncPrefectClient, settings: ServiceSettings) -> Iterator[FlowRun]:
    """Yield flow runs that have been active for a long time without a job folder."""
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE_STATES))),
    )
    for flow_run in found:
        folder = JobFolder.under(settings.jobs_root, flow_run.parameters["run_uid"], str(flow_run.id))
        if flow_run.state and _age_s(flow_run.state) > _NO_FOLDER_TIMEOUT_S and not folder.path.exists():
            yield flow_run


def _age_s(state: State) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()


def _filesystem_time(jobs_root: Path) -> float:
    """Return the current time of the filesystem's clock, s. The heartbeats have time stamps of the same clock."""
    clock = jobs_root / ".reaper"
    jobs_root.mkdir(parents=True, exist_ok=True)
    clock.touch()
    return clock.stat().st_mtime
