"""Subscription to the events of a Tiled catalogue; reconnects after server restarts."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tiled.client.container import Container
from tiled.client.stream import LiveChildCreated, LiveChildMetadataUpdated

_log = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES = 64 * 2**20
"""Largest message, bytes. A larger message ends the subscription. Some start documents exceed Tiled's default, 1 MB."""


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
        retry_s: seconds between two connection attempts.
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
        """Subscribe, and subscribe again whenever the connection is lost."""
        while not self._stopping.is_set():
            try:
                self._subscribe()
            except Exception as error:  # any server or network error may be temporary
                if not self._stopping.is_set():
                    _log.warning("Tiled's event stream failed (%s); next attempt in %g s", error, self._retry_s)
            self._stopping.wait(self._retry_s)

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
            subscription = client.subscribe()
            subscription.child_created.add_callback(self._receive)
            subscription.child_metadata_updated.add_callback(self._receive)
            self._subscription = subscription
            start = None if self._sequence is None else self._sequence + 1
            subscription.start(start, max_size=_MAX_MESSAGE_BYTES)  # blocks until the connection ends

    def _receive(self, update: LiveChildCreated | LiveChildMetadataUpdated) -> None:
        self._sequence = update.sequence
        self._on_event(RunEvent(update.key, update.sequence, bool((update.metadata or {}).get("stop"))))
