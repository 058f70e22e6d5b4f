"""What will happen to the jobs: record, flow run and the reaper's rule of each job folder."""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.recipe import ServiceSettings
from flows.heartbeat import has_heartbeat
from flows.reap_jobs import job_folders
from flows.reaper_table import REAPER_TABLE, Action, Condition, flow_run_state


@dataclass(frozen=True)
class JobLine:
    """A job folder, and what will happen to it.

    Attributes:
        folder: the job folder.
        record: state of its record, with the message if there is one.
        flow_run: state of its flow run.
        next: what will happen next; empty: nothing.
    """

    folder: Path
    record: str
    flow_run: str
    next: str


def list_jobs(settings: ServiceSettings) -> Iterator[JobLine]:
    """Yield every job folder of the jobs root. Without Prefect, the states of flow runs are unknown."""
    now = time.time()
    with get_client(sync_client=True) as client:
        for flow_run_id, folder in job_folders(settings.jobs_root):
            yield _line(client, flow_run_id, folder, now)


def _line(client: SyncPrefectClient, flow_run_id: UUID, folder: JobFolder, now: float) -> JobLine:
    try:
        record = folder.read_record()
    except JobError as error:
        return JobLine(folder.path, "unreadable", "not looked up", f"the reaper leaves it alone: {error}")
    text = f"{record.state} ({record.message})" if record.message else record.state
    if has_heartbeat(folder, now=now):
        return JobLine(folder.path, text, "alive", "its flow follows it")
    flow_run = None
    try:
        with suppress(ObjectNotFound):
            flow_run = client.read_flow_run(flow_run_id)
    except httpx.HTTPError as error:
        return JobLine(
            folder.path, text, f"unknown ({type(error).__name__})", "the reaper decides when Prefect answers"
        )
    state = flow_run_state(flow_run)
    rule = REAPER_TABLE[record.state, state]
    idle = rule.action in (Action.NOTHING, Action.END_LEFTOVER)
    condition = "" if rule.condition is Condition.NONE else f" ({rule.condition})"
    return JobLine(folder.path, text, state, "" if idle else f"the reaper's turn{condition}: {rule.action}")
