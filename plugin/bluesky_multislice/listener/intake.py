"""Hands single runs over to Prefect. An error of one run is that run's alone and does not keep the others."""

import logging
import time
from collections.abc import Mapping
from typing import Any

import httpx
from prefect.exceptions import PrefectException
from tiled.client.container import Container

from bluesky_multislice.catalog import is_away, refuses_key
from bluesky_multislice.errors import MultisliceError, ScanError
from bluesky_multislice.listener.handover import shortened, start_flow_run
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.wanted import RequestedRun, requested_run
from bluesky_multislice.recipe import LIVE_QUEUE, RERUN_QUEUE

_log = logging.getLogger(__name__)
_PAUSE_S, _MAX_PAUSE_S = 60.0, 3600.0
"""First and longest pause before a run that could not be handed over is tried again, s."""
_LIVE_S = 3600.0
"""A run that ended longer ago than this, s, waits behind live scans."""
_INVALID_REQUEST = (400, 409, 422)
"""HTTP status codes by which Prefect refuses one run; the others concern all runs."""


class PrefectAwayError(Exception):
    """Prefect cannot take any run at the moment."""


class Intake:
    """Hands runs over, and tries those again that could not be handed over.

    Args:
        state: the listener's state.
        since_s: unknown runs that ended before this time are history and left alone, s since 1970.
    """

    def __init__(self, state: ListenerState, since_s: float) -> None:
        self._state, self._since_s = state, since_s
        self._not_before: dict[str, tuple[int, float]] = {}
        """Run → number of failed attempts, time of the next one."""

    def renew(self, uid: str) -> None:
        """Let the next attempt of a run be at once, because the run has changed."""
        self._not_before.pop(uid, None)

    def attempt(self, catalogue: Container, uid: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Hand a run over, unless it was handed over with this recipe. Its first error is told, and it becomes pending.

        Args:
            catalogue: the catalogue of runs.
            uid: the run.
            metadata: its start and stop documents; None: read from the catalogue.

        Raises:
            PrefectAwayError: Prefect cannot take any run.
            Exception: Tiled is away or refuses the key.
        """
        attempts, due = self._not_before.get(uid, (0, 0.0))
        if time.monotonic() < due:
            return
        try:
            self._process(catalogue, uid, metadata)
        except Exception as error:  # whatever is wrong with one run must not keep the others
            if isinstance(error, PrefectAwayError) or is_away(error) or refuses_key(error):
                raise
            self._state.record_pending(uid)
            self._not_before[uid] = attempts + 1, time.monotonic() + min(_PAUSE_S * 2**attempts, _MAX_PAUSE_S)
            level = logging.DEBUG if attempts else logging.ERROR
            text = "Run %r is not handed over and tried again later: %s: %s"
            _log.log(level, text, uid, type(error).__name__, shortened(str(error)))

    def tell_open(self, uid: str, hours: float) -> None:
        """Create a failed flow run that tells that a run has no stop document, once.

        Args:
            uid: the run.
            hours: how long ago the run began, at least.

        Raises:
            PrefectAwayError: Prefect cannot take any run.
        """
        if self._state.was_told(uid):
            return
        error = ScanError(
            "A run that requests a reconstruction must end with a stop document.",
            got=f"none of run {uid!r}, {hours:g} h after its start.",
            remedy="if its acquisition has died, start the deployment by hand with scan.allow_aborted; a run that ends "
            "later is still reconstructed.",
        )
        _log.error("%s", error)
        try:
            _start(RequestedRun(uid, error, "no-stop-document"), LIVE_QUEUE)
        except httpx.HTTPError as refusal:
            _log.error("Prefect refuses to show this: %s", shortened(str(refusal)))
        self._state.record_told(uid)

    def _process(self, catalogue: Container, uid: str, metadata: Mapping[str, Any] | None) -> None:
        run = requested_run(uid, catalogue[uid].metadata if metadata is None else metadata)
        is_history = run is not None and self._is_history(run)
        if is_history:
            _log.info("Run %s ended before the listener's time and is left alone; `multislice backfill` takes it", uid)
        if run is None or is_history:
            self._state.drop_pending(uid)
            # A sweep meets it again, and it may have changed until then.
            self._not_before[uid] = 0, time.monotonic() + _MAX_PAUSE_S
            return
        if self._state.has(run):
            self._state.confirm(run)
            return
        if isinstance(run.recipe, MultisliceError):
            _log.error("Run %s is not reconstructed. %s", uid, shortened(str(run.recipe)))
        flow_run_id = _start(run, _queue(run))
        self._state.record_handover(run)
        _log.info("Run %s is flow run %s", uid, flow_run_id)

    def _is_history(self, run: RequestedRun) -> bool:
        ended_s = run.ended_s
        return ended_s is not None and ended_s < self._since_s and not self._state.knows(run.uid)


def _queue(run: RequestedRun) -> str:
    is_old = run.ended_s is not None and time.time() - run.ended_s > _LIVE_S
    return RERUN_QUEUE if is_old else LIVE_QUEUE


def _start(run: RequestedRun, queue: str):
    """Start the flow run of a run; a service that is away is told from a run that is refused."""
    try:
        return start_flow_run(run, queue=queue)
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: the server is away
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in _INVALID_REQUEST:
            raise
        raise PrefectAwayError(f"{type(error).__name__}: {error}") from error
