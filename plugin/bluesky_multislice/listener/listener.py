"""Starts flow runs on scan-completion events. The event is a hint, the catalogue is the truth.

Events only reduce the latency. Periodic sweeps of the catalogue find runs that the events missed, and runs that could
not be handed over because Prefect did not answer.
"""

import logging
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import get_current_settings
from tiled.client.container import Container

from bluesky_multislice.catalog import connect, is_away, refuses_key
from bluesky_multislice.errors import CatalogError, MultisliceError
from bluesky_multislice.listener.handover import shortened, start_flow_run
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.stream import RunEvent, RunStream
from bluesky_multislice.listener.wanted import finished_runs, requested_run
from bluesky_multislice.recipe import ServiceSettings, SettingsError

_log = logging.getLogger(__name__)
_MAX_PAUSE_S = 60.0
_RUN_PAUSE_S, _MAX_RUN_PAUSE_S = 60.0, 3600.0
"""First and longest pause before a run that could not be handed over is tried again, s."""
_COMPARISON_S = 3600.0
"""Seconds between two sweeps that also compare the recipes of the runs that were handed over."""
_INVALID_REQUEST = (400, 409, 422)
"""HTTP status codes by which Prefect refuses one run; the others concern all runs."""
_MOST_REFUSALS = 5
"""Number of consecutive attempts in which Tiled refuses the key, after which the listener ends."""


def listen(
    settings: ServiceSettings,
    *,
    state: Path | None = None,
    sweep_s: float = 60.0,
    stop: threading.Event | None = None,
) -> None:
    """Hand every finished run that requests a reconstruction over to Prefect. Runs until ``stop`` is set.

    Args:
        settings: addresses and paths of the services.
        state: file with the listener's state; None: a file in the jobs root.
        sweep_s: seconds between two sweeps of the catalogue.
        stop: event that ends the listener; None: it runs until the process ends.

    Raises:
        SettingsError: ``PREFECT_API_URL`` is not set, or the listener's state cannot be written.
        CatalogError: Tiled has refused the key several times.
    """
    if not get_current_settings().api.url:
        raise SettingsError(
            "The environment variable PREFECT_API_URL must be set.",
            got="no value.",
            remedy="set it to the Prefect server with the deployment, such as http://HOST:4200/api.",
        )
    stop = stop or threading.Event()
    remembered = ListenerState.load(state or settings.jobs_root / "listener.json")
    remembered.check_writable()
    _Listener(settings, remembered, sweep_s).run(stop)


class _ServiceError(Exception):
    """Prefect cannot take any run at the moment."""


class _Listener:
    def __init__(self, settings: ServiceSettings, state: ListenerState, sweep_s: float) -> None:
        self._settings, self._state, self._sweep_s = settings, state, sweep_s
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        self._client: Container | None = None
        self._next_sweep = self._next_comparison = time.monotonic()
        self._pause_s = 1.0
        self._refusals = 0
        self._not_before: dict[str, tuple[int, float]] = {}
        """Runs that were not handed over → number of failed attempts, time of the next one."""

    def run(self, stop: threading.Event) -> None:
        """Process events and sweeps until ``stop`` is set."""
        stream = RunStream(self._connect, sequence=self._state.sequence, on_event=self._events.put)
        stream.start()
        _log.info("Listening to %s", self._settings.tiled_uri)
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
        # An edited recipe may be what could not be handed over.
        self._next_comparison = time.monotonic()
        self._next_sweep = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S, self._sweep_s)

    def _step(self) -> None:
        if time.monotonic() >= self._next_sweep:
            self._sweep()
        try:
            event = self._events.get(timeout=min(0.5, max(0.0, self._next_sweep - time.monotonic())))
        except queue.Empty:
            return
        self._process_event(event)

    def _process_event(self, event: RunEvent) -> None:
        self._state.record_event(event.sequence)
        if event.stopped:
            self._not_before.pop(event.uid, None)
            self._attempt_run(event.uid)

    def _sweep(self) -> None:
        compares = time.monotonic() >= self._next_comparison
        for uid, metadata in finished_runs(self._catalogue(), metadata=compares):
            while not self._events.empty():  # Scans that end now go before old ones.
                self._process_event(self._events.get())
            if compares or uid not in self._state.handed_over:
                self._attempt_run(uid, metadata)
        if compares:
            self._next_comparison = time.monotonic() + _COMPARISON_S
        self._next_sweep = time.monotonic() + self._sweep_s
        self._pause_s, self._refusals = 1.0, 0

    def _catalogue(self) -> Container:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.context.close()
        self._client = None

    def _attempt_run(self, uid: str, metadata: Mapping[str, Any] | None = None) -> None:
        """Hand a run over. An error of this run alone is told once, and the run is tried again later."""
        attempts, due = self._not_before.get(uid, (0, 0.0))
        if time.monotonic() < due:
            return
        try:
            self._process_run(uid, metadata)
        except Exception as error:  # whatever is wrong with one run must not keep the others
            if isinstance(error, _ServiceError) or is_away(error) or refuses_key(error):
                raise
            pause_s = min(_RUN_PAUSE_S * 2**attempts, _MAX_RUN_PAUSE_S)
            self._not_before[uid] = attempts + 1, time.monotonic() + pause_s
            level = logging.DEBUG if attempts else logging.ERROR
            text = "Run %r is not handed over and tried again later: %s: %s"
            _log.log(level, text, uid, type(error).__name__, shortened(str(error)))

    def _process_run(self, uid: str, metadata: Mapping[str, Any] | None) -> None:
        run = requested_run(uid, self._catalogue()[uid].metadata if metadata is None else metadata)
        if run is None:
            self._not_before[uid] = 0, time.monotonic() + _COMPARISON_S
            return
        if self._state.handed_over.get(uid) == run.digest:
            return
        if isinstance(run.recipe, MultisliceError):
            _log.error("Run %s is not reconstructed. %s", uid, shortened(str(run.recipe)))
        try:
            flow_run_id = start_flow_run(run)
        except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: the server is away
            if _status(error) in _INVALID_REQUEST:
                raise
            raise _ServiceError(f"{type(error).__name__}: {error}") from error
        self._state.record_handover(uid, run.digest)
        _log.info("Run %s is flow run %s", uid, flow_run_id)


def _status(error: Exception) -> int | None:
    """Return the HTTP status of an error; None if a server did not answer with one."""
    return error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
