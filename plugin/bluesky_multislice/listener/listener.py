"""Starts flow runs on scan-completion events. The event is a hint, the catalogue is the truth.

Events only reduce the latency. Periodic sweeps of the catalogue find runs that the events missed, and runs that could
not be handed over because Prefect did not answer.
"""

import logging
import queue
import threading
import time
from pathlib import Path

import httpx
from prefect.settings import get_current_settings
from tiled.client.container import Container

from bluesky_multislice.catalog import connect
from bluesky_multislice.errors import RecipeError
from bluesky_multislice.listener.handover import start_flow_run
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.stream import RunEvent, RunStream
from bluesky_multislice.listener.wanted import finished_runs, requested_run
from bluesky_multislice.recipe import ServiceSettings, SettingsError

_log = logging.getLogger(__name__)
_MAX_PAUSE_S = 60.0
_INVALID_REQUEST = (400, 409, 422)
"""HTTP status codes of an invalid request. It is not repeated, so that it does not block the other runs."""


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
        SettingsError: ``PREFECT_API_URL`` is not set.
    """
    if not get_current_settings().api.url:
        raise SettingsError(
            "The environment variable PREFECT_API_URL must be set.",
            got="no value.",
            remedy="set it to the Prefect server with the deployment, such as http://HOST:4200/api.",
        )
    stop = stop or threading.Event()
    remembered = ListenerState.load(state or settings.jobs_root / "listener.json")
    _Listener(settings, remembered, sweep_s).run(stop)


class _Listener:
    def __init__(self, settings: ServiceSettings, state: ListenerState, sweep_s: float) -> None:
        self._settings, self._state, self._sweep_s = settings, state, sweep_s
        self._events: queue.SimpleQueue[RunEvent] = queue.SimpleQueue()
        self._client: Container | None = None
        self._next_sweep = time.monotonic()
        self._pause_s = 1.0

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
            _log.warning("%s: %s; next attempt in %g s", type(error).__name__, error, self._pause_s)
        self._disconnect()
        self._next_sweep = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _MAX_PAUSE_S, self._sweep_s)

    def _step(self) -> None:
        if time.monotonic() >= self._next_sweep:
            self._sweep()
        try:
            event = self._events.get(timeout=min(0.5, max(0.0, self._next_sweep - time.monotonic())))
        except queue.Empty:
            return
        self._state.record_event(event.sequence)
        if event.stopped:
            self._process_run(event.uid)

    def _sweep(self) -> None:
        for uid in finished_runs(self._catalogue()):
            if uid not in self._state.handed_over:
                self._process_run(uid)
        self._next_sweep = time.monotonic() + self._sweep_s
        self._pause_s = 1.0

    def _catalogue(self) -> Container:
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.context.close()
        self._client = None

    def _process_run(self, uid: str) -> None:
        run = requested_run(uid, self._catalogue()[uid].metadata)
        if run is None or self._state.handed_over.get(uid) == run.digest:
            return
        if isinstance(run.recipe, RecipeError):
            _log.error("Run %s is not reconstructed. %s", uid, run.recipe)
        try:
            flow_run_id = start_flow_run(run)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _INVALID_REQUEST:
                raise
            _log.error("Prefect refuses run %s: %s", uid, error)
            return
        self._state.record_handover(uid, run.digest)
        _log.info("Run %s is flow run %s", uid, flow_run_id)
