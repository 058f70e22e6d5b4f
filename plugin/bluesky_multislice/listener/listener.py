"""Starts flow runs on scan-completion events. The event is a hint, the catalogue is the truth.

Events only reduce the latency. Periodic sweeps of the catalogue find runs that the events missed. A run that was seen
is pending until Prefect has it.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prefect.settings import get_current_settings
from tiled.client.container import Container

from bluesky_multislice.catalog import PUBLISHING_SCOPES, connect, is_away, missing_scopes, refuses_key
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.listener.intake import Intake
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.stream import RunEvent, RunStream
from bluesky_multislice.listener.sweep_periods import sweep_periods
from bluesky_multislice.listener.wanted import Period, finished_runs, open_runs
from bluesky_multislice.recipe import ServiceSettings, SettingsError

_log = logging.getLogger(__name__)
_MAX_PAUSE_S = 60.0
_COMPARISON_S = 3600.0
"""Seconds between two sweeps that also compare the recipes of the runs that were handed over."""
_COMPARED_S = 30 * 86400.0
"""How long after its end a run's recipe is compared, s."""
_LATE_S = 3600.0
"""How much later than its stop document says a run may appear in the catalogue, s; the hourly sweep finds others."""
_MOST_REFUSALS = 5
"""Number of consecutive attempts in which Tiled refuses the key, after which the listener ends."""


@dataclass(frozen=True)
class _Timing:
    """Times of the listener: between two sweeps, s; first end of a run, s since 1970; until a run counts as open, h."""

    sweep_s: float
    since_s: float
    open_after_h: float


def listen(
    settings: ServiceSettings,
    *,
    state: Path | None = None,
    sweep_s: float = 60.0,
    since: datetime | None = None,
    open_after_h: float = 24.0,
    stop: threading.Event | None = None,
) -> None:
    """Hand every finished run that requests a reconstruction over to Prefect. Runs until ``stop`` is set.

    Args:
        settings: addresses and paths of the services.
        state: file with the listener's state; None: a file in the jobs root.
        sweep_s: seconds between two sweeps of the catalogue.
        since: runs that ended before this time are history and left alone; None: the listener's first start.
        open_after_h: hours after its start at which it is told that a run has no stop document.
        stop: event that ends the listener; None: it runs until the process ends.

    Raises:
        SettingsError: ``PREFECT_API_URL`` is not set, or the listener's state cannot be written.
        CatalogError: Tiled has refused the key several times, or the key may not read runs.
    """
    if not get_current_settings().api.url:
        raise SettingsError(
            "The environment variable PREFECT_API_URL must be set.",
            got="no value.",
            remedy="set it to the Prefect server with the deployment, such as http://HOST:4200/api.",
        )
    stop = stop or threading.Event()
    with closing(ListenerState.open(state or settings.jobs_root / "listener.db")) as remembered:
        since_s = remembered.first_start_s if since is None else since.timestamp()
        _Listener(settings, remembered, _Timing(sweep_s, since_s, open_after_h)).run(stop)


class _Listener:
    def __init__(self, settings: ServiceSettings, state: ListenerState, timing: _Timing) -> None:
        self._settings, self._state, self._timing = settings, state, timing
        self._intake = Intake(state, timing.since_s)
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        self._client: Container | None = None
        self._scopes_checked = False
        self._next_sweep = self._next_comparison = time.monotonic()
        self._pause_s = 1.0
        self._refusals = 0

    def run(self, stop: threading.Event) -> None:
        """Process events and sweeps until ``stop`` is set."""
        stream = RunStream(self._connect, sequence=self._state.sequence, on_event=self._events.put)
        stream.start()
        begin = datetime.fromtimestamp(self._timing.since_s, UTC).astimezone()
        _log.info(
            "Listening to %s for runs that end after %s", self._settings.tiled_uri, begin.isoformat(" ", "minutes")
        )
        try:
            while not stop.is_set():
                self._attempt()
        finally:
            stream.stop()
            self._disconnect()

    def _connect(self) -> Container:
        return connect(self._settings.tiled_uri, tiled_key(self._settings))

    def _attempt(self) -> None:
        """Process the next event or sweep. After an error, sweep again with exponential backoff."""
        try:
            self._step()
            return
        except Exception as error:  # the services may return later; the next sweep finds the runs again
            self._refusals = self._refusals + 1 if refuses_key(error) else 0
            if self._refusals >= _MOST_REFUSALS:
                raise CatalogError(
                    "Tiled must accept the listener's key.",
                    got=f"{_MOST_REFUSALS} refusals: {error}",
                    remedy="correct TILED_API_KEY, then start the listener again.",
                ) from error
            _log.warning("%s: %s; next attempt in %g s", type(error).__name__, error, self._pause_s)
        self._disconnect()
        # The stream may have missed an edited recipe.
        self._next_comparison = time.monotonic()
        self._next_sweep = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S, self._timing.sweep_s)

    def _step(self) -> None:
        if not self._scopes_checked:
            self._check_scopes()
        if time.monotonic() >= self._next_sweep:
            self._sweep()
        try:
            event = self._events.get(timeout=min(0.5, max(0.0, self._next_sweep - time.monotonic())))
        except queue.Empty:
            return
        self._process_event(event)

    def _check_scopes(self) -> None:
        """Warn if flows that use the listener's key could not publish: otherwise each would find out at its end."""
        missing = missing_scopes(self._catalogue(), PUBLISHING_SCOPES)
        if missing:
            text = "The Tiled key lacks the scopes %s: flows that use this key cannot publish"
            _log.warning(text, ", ".join(missing))
        self._scopes_checked = True

    def _process_event(self, event: RunEvent) -> None:
        self._state.record_event(event.sequence, ended_run=event.uid if event.stopped else None)
        if event.stopped:
            self._intake.renew(event.uid)
            self._intake.attempt(self._catalogue(), event.uid)

    def _process_waiting_events(self) -> None:
        """Process the events that have arrived: scans that end now go before old ones."""
        while not self._events.empty():
            self._process_event(self._events.get())

    def _sweep(self) -> None:
        compares = time.monotonic() >= self._next_comparison
        now_s = time.time()
        for uid in self._state.pending():
            self._process_waiting_events()
            self._intake.attempt(self._catalogue(), uid)
        since_s = self._begin_of_sweep(now_s, compares)
        for period in sweep_periods(since_s, now_s):
            for uid, metadata in self._runs(period, compares):
                self._process_waiting_events()
                if compares or not self._state.knows(uid):
                    self._intake.attempt(self._catalogue(), uid, metadata)
        self._state.record_sweep(self._timing.since_s, now_s)
        if compares:
            self._tell_open_runs(now_s)
            self._next_comparison = time.monotonic() + _COMPARISON_S
        self._next_sweep = time.monotonic() + self._timing.sweep_s
        self._pause_s, self._refusals = 1.0, 0

    def _begin_of_sweep(self, now_s: float, compares: bool) -> float:
        """Return the end of the oldest run that a sweep must look at, s since 1970."""
        swept = self._state.swept
        if swept is None or self._timing.since_s < swept[0]:
            return self._timing.since_s
        begin_s = min(swept[1], now_s) - _LATE_S
        return max(self._timing.since_s, min(begin_s, now_s - _COMPARED_S) if compares else begin_s)

    def _runs(self, period: Period, compares: bool) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """Yield the runs that ended in a period; with their metadata, if the client can read it of all of them."""
        try:
            return iter(list(finished_runs(self._catalogue(), ended=period, metadata=compares)))
        except Exception as error:
            if not compares or is_away(error) or refuses_key(error) or isinstance(error, httpx.HTTPError):
                raise
            _log.warning("Reading runs one by one, because %s: %s", type(error).__name__, error)
            return iter(list(finished_runs(self._catalogue(), ended=period)))

    def _tell_open_runs(self, now_s: float) -> None:
        hours = self._timing.open_after_h
        begun = Period(max(self._timing.since_s, now_s - _COMPARED_S), now_s - hours * 3600)
        for uid in open_runs(self._catalogue(), begun=begun):
            self._intake.tell_open(uid, hours)

    def _catalogue(self) -> Container:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.context.close()
        self._client = None
