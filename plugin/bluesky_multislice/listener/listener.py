"""From scan-completion events to flow runs. The event is a hint, the catalogue is the truth.

Events only make things quick: whatever they miss, or could not be handed over because Prefect was away, the next sweep
of the catalogue finds.
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
from bluesky_multislice.listener.handover import hand_over
from bluesky_multislice.listener.keys import tiled_key
from bluesky_multislice.listener.state import ListenerState
from bluesky_multislice.listener.stream import RunEvent, RunStream
from bluesky_multislice.listener.wanted import finished_runs, wanted_run
from bluesky_multislice.recipe import ServiceSettings, SettingsError

_log = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 60.0
_REFUSED = (400, 409, 422)
"""HTTP status of a request that is wrong in itself: it must not keep the other runs waiting."""


def listen(
    settings: ServiceSettings,
    *,
    state: Path | None = None,
    sweep_s: float = 60.0,
    stop: threading.Event | None = None,
) -> None:
    """Hand every run that has ended and asks for it to Prefect, until told to stop.

    Args:
        settings: where the services are; the Tiled key comes from ``TILED_API_KEY``.
        state: file that remembers what was done; None keeps it in the jobs root.
        sweep_s: seconds between two sweeps of the catalogue.
        stop: set it to end; None runs until the process ends.

    Raises:
        SettingsError: no Prefect server is named.
    """
    if not get_current_settings().api.url:
        raise SettingsError(
            "The environment variable PREFECT_API_URL must be set.",
            got="nothing.",
            remedy="set it to the Prefect server that has the deployment, such as http://HOST:4200/api.",
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
        """Hand over what has stopped, event by event and sweep by sweep, until ``stop`` is set."""
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
        """Do what is due; after a failure let the next sweep come sooner, and later with each failure."""
        try:
            self._step()
            return
        except Exception as error:  # the listener outlives its services; what failed is found again by the sweep
            _log.warning("%s: %s; next attempt in %g s", type(error).__name__, error, self._pause_s)
        self._disconnect()
        self._next_sweep = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S, self._sweep_s)

    def _step(self) -> None:
        if time.monotonic() >= self._next_sweep:
            self._sweep()
        try:
            event = self._events.get(timeout=min(0.5, max(0.0, self._next_sweep - time.monotonic())))
        except queue.Empty:
            return
        self._state.dealt_with(event.sequence)
        if event.stopped:
            self._consider(event.uid)

    def _sweep(self) -> None:
        for uid in finished_runs(self._catalogue()):
            if uid not in self._state.handed_over:
                self._consider(uid)
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

    def _consider(self, uid: str) -> None:
        run = wanted_run(uid, self._catalogue()[uid].metadata)
        if run is None or self._state.handed_over.get(uid) == run.digest:
            return
        if isinstance(run.recipe, RecipeError):
            _log.error("Run %s is not reconstructed. %s", uid, run.recipe)
        try:
            flow_run_id = hand_over(run)
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in _REFUSED:
                raise
            _log.error("Prefect refuses run %s: %s", uid, error)
            return
        self._state.hand_over(uid, run.digest)
        _log.info("Run %s is flow run %s", uid, flow_run_id)
