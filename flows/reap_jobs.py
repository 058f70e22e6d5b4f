"""The reaper: handles jobs whose flow process has died, and results that were never published.

It compares the record in each job folder with the flow run in Prefect, and takes the action of ``reaper_table``.
"""

import logging
import os
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled, Completed, Crashed

from bluesky_multislice import catalog
from bluesky_multislice.errors import JobError, MultisliceError
from bluesky_multislice.jobs import JobFolder, JobRecord, RecordState
from bluesky_multislice.jobs.schedulers import JobState, Scheduler, make_scheduler, read_site
from bluesky_multislice.recipe import FLOW, ServiceSettings
from flows.folder_writes import record_outcome
from flows.heartbeat import HEARTBEAT_TIMEOUT_S, has_heartbeat
from flows.hooks import may_run_again
from flows.publication import publish_left_result
from flows.reaper_table import REAPER_TABLE, Action, Condition, flow_run_state

_log = logging.getLogger(__name__)
_NO_FOLDER_TIMEOUT_S = 600.0
"""A flow run that is pending or running for this time and still has no job folder counts as dead."""
_CRASH_SETTLING_S = 60.0
"""Seconds to wait after a crash before the flow run is scheduled again.

During this time the worker may report the crash again, which overwrites any other state, or may still run the hooks.
Prefect 3.8's worker ends if it gets a flow run that it still holds.
"""
_ACTIVE_STATES = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
_LOST_STATES = [StateType.CRASHED, StateType.FAILED]
_LOST_FOR = timedelta(days=7)
"""How long after its end the reaper still corrects the state of a flow run."""
_PAGE = 200
"""Largest number of flow runs that Prefect returns at once."""


@dataclass(frozen=True)
class ReaperAction:
    """An action of the reaper.

    Attributes:
        flow_run_id: the flow run; it may have been deleted.
        action: description of the action.
    """

    flow_run_id: UUID
    action: str


@dataclass(frozen=True)
class _Case:
    """A job folder and its flow run; None: Prefect does not have the flow run."""

    flow_run_id: UUID
    folder: JobFolder
    flow_run: FlowRun | None

    @property
    def message(self) -> str:
        """Message of the flow run's state."""
        return (self.flow_run.state.message or "") if self.flow_run and self.flow_run.state else ""


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
        reaper = _Reaper(client, scheduler, settings)
        unsettled = {flow_run.id: flow_run for flow_run in _unsettled_flow_runs(client)}
        for flow_run_id, folder in job_folders(settings.jobs_root):
            try:
                if not _concerns_reaper(folder.read_record(), flow_run_id, active, unsettled):
                    continue
                action = reaper.handle(flow_run_id, folder, now=now)
            except (JobError, OSError, KeyError, ValueError) as error:
                # An unreadable folder must not keep the reaper from the others.
                _log.warning("Job folder %s is left alone: %s: %s", folder.path, type(error).__name__, error)
                continue
            actions += [ReaperAction(flow_run_id, action)] if action else []
        for flow_run in _without_folder(unsettled.values(), settings):
            action = reaper.run_again(flow_run)
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


def job_folders(jobs_root: Path) -> Iterator[tuple[UUID, JobFolder]]:
    """Yield every job folder with the id of its flow run."""
    for path in sorted(jobs_root.absolute().glob("*/*")):
        with suppress(ValueError):
            yield UUID(path.name), JobFolder(path)


class _Reaper:
    """Executes the table. Each action returns its description; an empty string if nothing was necessary."""

    def __init__(self, client: SyncPrefectClient, scheduler: Scheduler, settings: ServiceSettings) -> None:
        self._client, self._scheduler, self._settings = client, scheduler, settings
        self._actions: dict[Action, Callable[[_Case], str]] = {
            Action.NOTHING: lambda case: "",
            Action.RUN_AGAIN: self._run_again,
            Action.RUN_AGAIN_OR_PUBLISH: self._run_again_or_publish,
            Action.PUBLISH: lambda case: self._publish_or_end(case, "its flow run was deleted"),
            Action.CANCEL: lambda case: self._end(case, _flow_run_cancelled),
            Action.CONFIRM_CANCELLATION: self._confirm_cancellation,
            Action.RECORD_FAILURE: lambda case: self._end(case, lambda record: record.fail(case.message)),
            Action.RECORD_PUBLICATION: self._record_publication,
            Action.CONFIRM_PUBLICATION: self._confirm_publication,
            Action.END_LEFTOVER: lambda case: self._end(case, lambda record: record),
        }

    def handle(self, flow_run_id: UUID, folder: JobFolder, *, now: float) -> str:
        """Take the table's action for a job folder. ``now`` is the filesystem's clock, s."""
        flow_run = None
        with suppress(ObjectNotFound):
            flow_run = self._client.read_flow_run(flow_run_id)
        case = _Case(flow_run_id, folder, flow_run)
        rule = REAPER_TABLE[folder.read_record().state, flow_run_state(flow_run)]
        alive = has_heartbeat(folder, now=now)
        return self._actions[rule.action](case) if _is_met(rule.condition, flow_run, alive=alive) else ""

    def run_again(self, flow_run: FlowRun) -> str:
        """Mark a flow run whose process has died as crashed, and schedule it again if it has attempts left."""
        if not self._tiled_answers:  # The flow could only wait for it, too.
            return ""
        state = flow_run.state
        if state is None or not state.is_crashed():
            state = Crashed(message="Its process sends no heartbeat.")
            self._client.set_flow_run_state(flow_run.id, state, force=True)
        if not may_run_again(flow_run):
            return ""
        self._client.set_flow_run_state(flow_run.id, AwaitingRetry(message=state.message), force=True)
        return "run again"

    @cached_property
    def _tiled_answers(self) -> bool:
        found = catalog.answers(self._settings.tiled_uri)
        if not found:
            _log.warning("The Tiled server does not answer; flow runs that have crashed wait for it")
        return found

    def _run_again(self, case: _Case) -> str:
        return self.run_again(case.flow_run) if case.flow_run else ""

    def _run_again_or_publish(self, case: _Case) -> str:
        if not self._tiled_answers:
            return ""
        return self._run_again(case) or self._publish_or_end(case, "its flow run has crashed too often")

    def _confirm_cancellation(self, case: _Case) -> str:
        action = self._end(case, _flow_run_cancelled)
        cancelled = Cancelled(message="Its process had already ended.")
        self._client.set_flow_run_state(case.flow_run_id, cancelled, force=True)
        return action or "marked as cancelled"

    def _record_publication(self, case: _Case) -> str:
        record_outcome(case.folder, lambda record: record.publish(case.message))
        return ""

    def _confirm_publication(self, case: _Case) -> str:
        self._end(case, lambda record: record)
        path = case.folder.read_record().message
        completed = Completed(message=f"Published at {path}; the flow's process had ended before it could tell.")
        self._client.set_flow_run_state(case.flow_run_id, completed, force=True)
        return "marked as completed"

    def _publish_or_end(self, case: _Case, why: str) -> str:
        """Publish the result of a job without a flow run; end the job if it has no result yet."""
        job = self._scheduler.adopt(case.folder, name=str(case.flow_run_id))
        if job is None or self._scheduler.status(job).state is not JobState.COMPLETED:
            return self._end(case, lambda record: record.cancel(why))
        try:
            path = publish_left_result(self._settings, case.folder, made_by={"flow_run": {"lost": why}})
        except MultisliceError as error:
            return f"{why}; its result in {case.folder.path} is not published: {error}"
        return f"{why}; its result is published at {path}"

    def _end(self, case: _Case, transition: Callable[[JobRecord], JobRecord]) -> str:
        """End a pending or running job, and record the outcome unless there is one."""
        job = self._scheduler.adopt(case.folder, name=str(case.flow_run_id))
        active = job is not None and not self._scheduler.status(job).ended
        if job is not None and active:
            self._scheduler.cancel(job)
        if not case.folder.read_record().state.ended:
            record_outcome(case.folder, transition)
        return "job ended" if active else ""


def _is_met(condition: Condition, flow_run: FlowRun | None, *, alive: bool) -> bool:
    age_s = _age_s(flow_run.state) if flow_run and flow_run.state else 0.0
    return {
        Condition.NONE: True,
        Condition.NO_HEARTBEAT: not alive,
        Condition.QUIET: not alive and age_s >= HEARTBEAT_TIMEOUT_S,
        Condition.SETTLED: age_s >= _CRASH_SETTLING_S,
    }[condition]


def _flow_run_cancelled(record: JobRecord) -> JobRecord:
    return record.cancel("The flow run was cancelled.")


def _concerns_reaper(record: JobRecord, flow_run_id: UUID, active: Container[str], unsettled: Container[UUID]) -> bool:
    """Return whether a job has no outcome, still runs, or is published while Prefect says otherwise."""
    if not record.state.ended or str(flow_run_id) in active:
        return True
    return record.state is RecordState.PUBLISHED and flow_run_id in unsettled


def _unsettled_flow_runs(client: SyncPrefectClient) -> Iterator[FlowRun]:
    """Yield the flow runs that are active, and those that crashed or failed recently."""
    recently = FlowRunFilterEndTime.model_validate({"after_": datetime.now(UTC) - _LOST_FOR})
    for states, end_time in ((_ACTIVE_STATES, None), (_LOST_STATES, recently)):
        state = FlowRunFilterState(type=FlowRunFilterStateType(any_=states))
        found: list[FlowRun] = []
        while True:
            page = client.read_flow_runs(
                flow_filter=FlowFilter(name=FlowFilterName(any_=[FLOW])),
                flow_run_filter=FlowRunFilter(state=state, end_time=end_time),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                offset=len(found),
                limit=_PAGE,
            )
            found += page
            if len(page) < _PAGE:
                break
        yield from found


def _without_folder(flow_runs: Iterable[FlowRun], settings: ServiceSettings) -> Iterator[FlowRun]:
    """Yield flow runs that died before they had a job folder: crashed, or active for a long time."""
    for flow_run in flow_runs:
        if flow_run.state is None or flow_run.state.is_failed():
            continue
        limit_s = _CRASH_SETTLING_S if flow_run.state.is_crashed() else _NO_FOLDER_TIMEOUT_S
        folder = JobFolder.under(settings.jobs_root, str(flow_run.parameters.get("run_uid")), str(flow_run.id))
        if _age_s(flow_run.state) > limit_s and not folder.path.exists():
            yield flow_run


def _age_s(state: State) -> float:
    return (datetime.now(UTC) - state.timestamp).total_seconds()


def _filesystem_time(jobs_root: Path) -> float:
    """Return the current time of the filesystem's clock, s. The heartbeats have time stamps of the same clock."""
    # Reapers of several users may share the jobs root.
    clock = jobs_root / f".reaper-{os.getuid()}"
    jobs_root.mkdir(parents=True, exist_ok=True)
    clock.touch()
    return clock.stat().st_mtime
