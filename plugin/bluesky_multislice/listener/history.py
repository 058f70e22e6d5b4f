"""Hands over runs that ended before the listener's first start, at low priority."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from tiled.client.container import Container

from bluesky_multislice import catalog
from bluesky_multislice.errors import MultisliceError
from bluesky_multislice.listener.handover import shortened, start_flow_run
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.sweep_periods import sweep_periods
from bluesky_multislice.listener.wanted import Period, RequestedRun, finished_runs, requested_run
from bluesky_multislice.recipe import RERUN_QUEUE, ServiceSettings

BACKFILL_TAG = "backfill"
_POLL_S = 10.0


@dataclass(frozen=True)
class Selection:
    """Runs of the catalogue that request a reconstruction.

    Attributes:
        since: they ended at this time or later.
        until: they ended before this time; None: any.
        plan_name: name of their plan; None: any.
    """

    since: datetime
    until: datetime | None = None
    plan_name: str | None = None


@dataclass(frozen=True)
class BackfilledRun:
    """What becomes of a run.

    Attributes:
        uid: the run.
        ended: when it ended; None: its stop document has no time.
        outcome: what was done with it, or would be done.
    """

    uid: str
    ended: datetime | None
    outcome: str


def backfill(
    settings: ServiceSettings, selection: Selection, *, most_waiting: int = 2, dry_run: bool = False
) -> Iterator[BackfilledRun]:
    """Hand runs over to Prefect, the newest first, and yield what became of each.

    Runs with a complete reconstruction of their recipe are left out. It is safe to stop and repeat this: a run and a
    recipe have one flow run. Its flow runs wait in the queue of reruns. A further one is created only when few wait, so
    that reruns by users do not wait for all of history.

    Args:
        settings: addresses of the services.
        selection: the runs.
        most_waiting: largest number of flow runs of backfills that wait in Prefect.
        dry_run: whether to create nothing.

    Raises:
        CatalogError: Tiled does not answer or refuses the key.
        httpx.HTTPError: Tiled or Prefect does not answer.
    """
    catalogue = catalog.connect(settings.tiled_uri, tiled_key(settings))
    with closing(catalogue.context), get_client(sync_client=True) as prefect:
        for uid in _selected(catalogue, selection):
            try:
                run = requested_run(uid, catalogue[uid].metadata)
            except Exception as error:  # whatever is wrong with one run must not keep the others
                if catalog.is_away(error) or catalog.refuses_key(error):
                    raise
                yield BackfilledRun(uid, None, f"cannot be read: {shortened(str(error))}")
                continue
            if run is not None:
                ended = None if run.ended_s is None else datetime.fromtimestamp(run.ended_s, UTC)
                yield BackfilledRun(uid, ended, _handed_over(catalogue, prefect, run, most_waiting, dry_run))


def _selected(catalogue: Container, selection: Selection) -> Iterator[str]:
    until_s = None if selection.until is None else selection.until.timestamp()
    for period in sweep_periods(selection.since.timestamp(), time.time() if until_s is None else until_s):
        bounded = Period(period.since_s, until_s if period.before_s is None else period.before_s)
        yield from [uid for uid, _ in finished_runs(catalogue, ended=bounded, plan_name=selection.plan_name)]


def _handed_over(
    catalogue: Container, prefect: SyncPrefectClient, run: RequestedRun, most_waiting: int, dry_run: bool
) -> str:
    if isinstance(run.recipe, MultisliceError):
        return f"left out, invalid: {shortened(str(run.recipe))}"
    done = [former.path for former in catalog.find_reconstructions(catalogue, run.uid, run.digest) if former.complete]
    if done:
        return f"left out, published at {done[-1]}"
    if dry_run:
        return "would be handed over"
    while _waiting(prefect, most_waiting):
        time.sleep(_POLL_S)
    return f"flow run {start_flow_run(run, queue=RERUN_QUEUE, tags=[BACKFILL_TAG])}"


def _waiting(prefect: SyncPrefectClient, most: int) -> bool:
    """Return whether as many flow runs of backfills wait as may."""
    states = FlowRunFilterStateType(any_=[StateType.SCHEDULED, StateType.PENDING])
    chosen = FlowRunFilter(tags=FlowRunFilterTags(all_=[BACKFILL_TAG]), state=FlowRunFilterState(type=states))
    return len(prefect.read_flow_runs(flow_run_filter=chosen, limit=most)) >= most
