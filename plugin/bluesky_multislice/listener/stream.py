"""Subscription to the events of a Tiled catalogue; reconnects after server restarts."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tiled.client.container import Container
from tiled.client.stream import LiveChildCreated, LiveChildMetadataUpdated

from bluesky_multislice.catalog import STREAM_SCOPES, check_scopes

_log = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message, bytes. A larger message ends the subscription. Some start documents exceed Tiled's default, 1 MB."""


_MAX_PAUSE_S = 60.0


@dataclass(frozen=True)
class RunEvent:
    """An event: a run was created or changed.

    Attributes:
        uid: the run.
        sequence: number of the event in the catalogue's stream.
        stopped: whether the run has a stop document.
    """

    uid: str
    sequence: int
    stopped: bool


class RunStream(threading.Thread):
    """Receives the catalogue's events until ``stop`` is called.

    Args:
        connect: returns a client of the catalogue.
        sequence: number of the last event that the caller processed; None: start with new events.
        on_event: called with each event, in this thread.
        retry_s: seconds from a failure to the next attempt; doubled with each further failure, at most a minute.
    """

    def __init__(
        self,
        connect: Callable[[], Container],
        *,
        sequence: int | None,
        on_event: Callable[[RunEvent], None],
        retry_s: float = 5.0,
    ) -> None:
        super().__init__(name="tiled-run-stream", daemon=True)
        self._connect, self._on_event, self._retry_s = connect, on_event, retry_s
        self._sequence = sequence
        self._stopping = threading.Event()
        self._subscription = None

    def run(self) -> None:
        """Subscribe, and subscribe again whenever the connection is lost. A lasting failure is told once."""
        pause_s, told = self._retry_s, ""
        while not self._stopping.is_set():
            before = self._sequence
            try:
                self._subscribe()
            except Exception as error:  # any server or network error may be temporary
                text = f"{type(error).__name__}: {error}"
                if text != told and not self._stopping.is_set():
                    _log.warning("Tiled's event stream failed (%s); only sweeps find runs until it works", text)
                told = text
            if self._sequence != before:
                pause_s, told = self._retry_s, ""
            self._stopping.wait(pause_s)
            pause_s = min(2 * pause_s, _MAX_PAUSE_S)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._subscription:
            self._subscription.disconnect(wait=False)
        if self.is_alive():
            self.join(timeout=30)

    def _subscribe(self) -> None:
        client = self._connect()
        with closing(client.context):
            check_scopes(client, STREAM_SCOPES)
            subscription = client.subscribe()
            subscription.child_created.add_callback(self._receive)
            subscription.child_metadata_updated.add_callback(self._receive)
            self._subscription = subscription
            if self._stopping.is_set():
                return  # ``stop`` did not see this subscription
            start = None if self._sequence is None else self._sequence + 1
            subscription.start(start, max_size=_MAX_MESSAGE_BYTES)  # blocks until the connection ends

    def _receive(self, update: LiveChildCreated | LiveChildMetadataUpdated) -> None:
        self._sequence = update.sequence
        self._on_event(RunEvent(update.key, update.sequence, bool((update.metadata or {}).get("stop"))))
