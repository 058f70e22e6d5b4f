"""Jobs whose flow has gone, and results that nobody has published: found in the job folders, and seen to.

A job folder says itself whether it is done (``outcome.json``) and whether a flow looks after it (``followed``). What
is left over is held against Prefect: a flow run whose process died is run again and goes on with its job; the job of
one that was cancelled, failed or deleted is ended; a result without a flow run is published.
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
from flows.job_record import GONE_AFTER_S, Outcome, is_followed, job_folders, read_outcome, write_outcome
from flows.publication import publish_once

_log = logging.getLogger(__name__)
_WITHOUT_FOLDER_S = 600.0
"""A flow run that has been about to start for so long, and has no job folder yet, will not."""
_CRASH_SETTLED_S = 60.0
"""Seconds after a crash within which the worker may report it once more, over any other state, or hold the flow run for
its hooks: Prefect 3.8's worker ends when it is given one that it still holds."""
_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


@dataclass(frozen=True)
class Reaped:
    """What was done about one flow run.

    Attributes:
        flow_run_id: the flow run, also of a deleted one.
        done: what was done, in words.
    """

    flow_run_id: UUID
    done: str


def reap_jobs(settings: ServiceSettings) -> list[Reaped]:
    """See to every job that no flow looks after.

    Local jobs are found on the machine that runs them only: run it there.

    Args:
        settings: where the services are.

    Returns:
        What was done.

    Raises:
        SchedulerError: the scheduler does not answer.
        httpx.HTTPError: Prefect does not answer.
    """
    scheduler = make_scheduler(read_site(settings.site))
    live = scheduler.live()
    now = _time_of_the_file_server(settings.jobs_root)
    done = []
    with get_client(sync_client=True) as client:
        for flow_run_id, folder in job_folders(settings.jobs_root):
            followed = is_followed(folder, now=now)
            if read_outcome(folder) is None:
                word = _see_to(client, scheduler, settings, flow_run_id, folder, followed=followed)
            else:
                word = _end(scheduler, flow_run_id, folder) if str(flow_run_id) in live and not followed else ""
            done += [Reaped(flow_run_id, word)] if word else []
        for flow_run in _without_a_folder(client, settings):
            word = _run_again(client, flow_run)
            done += [Reaped(flow_run.id, word)] if word else []
    for reaped in done:
        _log.info("Flow run %s: %s", reaped.flow_run_id, reaped.done)
    return done


def keep_reaping(settings: ServiceSettings, every_s: float) -> NoReturn:
    """See to such jobs again and again, over whatever the services do meanwhile.

    Args:
        settings: where the services are.
        every_s: seconds between two looks.
    """
    while True:
        try:
            reap_jobs(settings)
        except Exception as error:  # it outlives Prefect, the scheduler and the jobs folder; the next look may work
            _log.warning("%s: %s; next look in %g s", type(error).__name__, error, every_s)
        time.sleep(every_s)


def _see_to(
    client: SyncPrefectClient,
    scheduler: Scheduler,
    settings: ServiceSettings,
    flow_run_id: UUID,
    folder: JobFolder,
    *,
    followed: bool,
) -> str:
    """See to a folder without an outcome; return what was done, empty where nothing had to be."""
    try:
        flow_run = client.read_flow_run(flow_run_id)
    except ObjectNotFound:
        why = "its flow run was deleted"
        return "" if followed else _publish_or_end(scheduler, settings, flow_run_id, folder, why)
    state = flow_run.state
    if state is None or state.is_scheduled() or state.is_paused():
        return ""
    if state.is_crashed():
        # What the flow has touched before it crashed is no sign of life.
        if _age_s(state) < _CRASH_SETTLED_S:
            return ""
        return _run_again(client, flow_run) or _publish_or_end(
            scheduler, settings, flow_run_id, folder, "its flow run has crashed too often"
        )
    if followed or (state.type in _UNDER_WAY and _age_s(state) < GONE_AFTER_S):
        return ""
    if state.is_cancelling():
        word = _end(scheduler, flow_run_id, folder)
        client.set_flow_run_state(flow_run.id, Cancelled(message="Its process had gone."), force=True)
        return word or "marked as cancelled"
    if state.is_cancelled():
        return _end(scheduler, flow_run_id, folder)
    if state.is_failed():
        return _end(scheduler, flow_run_id, folder, Outcome("failed", state.message or ""))
    if state.is_completed():
        write_outcome(folder, Outcome("published", state.message or ""))
        return ""
    # Said to be under way; the next look finds it crashed where it may not be run again.
    return _run_again(client, flow_run)


def _run_again(client: SyncPrefectClient, flow_run: FlowRun) -> str:
    """Run a flow run again whose process has gone; return what was done, empty where it may not be."""
    state = flow_run.state
    if state is None or not state.is_crashed():
        state = Crashed(message="Its process gives no sign of life.")
        client.set_flow_run_state(flow_run.id, state, force=True)
    if not may_run_again(flow_run):
        return ""
    client.set_flow_run_state(flow_run.id, AwaitingRetry(message=state.message), force=True)
    return "run again"


def _publish_or_end(
    scheduler: Scheduler, settings: ServiceSettings, flow_run_id: UUID, folder: JobFolder, why: str
) -> str:
    """Publish the result of a job without a flow run; end the job where it has none yet."""
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
    """End a job that waits or runs; return what was done, empty where there was none."""
    job = scheduler.adopt(folder, name=str(flow_run_id))
    runs = job is not None and not scheduler.status(job).ended
    if job is not None and runs:
        scheduler.cancel(job)
    if read_outcome(folder) is None:
        write_outcome(folder, outcome)
    return "job ended" if runs else ""


def _without_a_folder(client: SyncPrefectClient, settings: ServiceSettings) -> Iterator[FlowRun]:
    """Yield flow runs that are said to be under way, and have been for long without making their job folder."""
    found = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY))),
    )
    for flow_run in found:
        folder = JobFolder.under(settings.jobs_root, flow_run.parameters["run_uid"], str(flow_run.id))
        if flow_run.state and _age_s(flow_run.state) > _WITHOUT_FOLDER_S and not folder.path.exists():
            yield flow_run


def _age_s(state: State) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()


def _time_of_the_file_server(jobs_root: Path) -> float:
    """Return the time, s, in the terms of the filesystem that stamps the signs of life."""
    clock = jobs_root / ".reaper"
    jobs_root.mkdir(parents=True, exist_ok=True)
    clock.touch()
    return clock.stat().st_mtime
