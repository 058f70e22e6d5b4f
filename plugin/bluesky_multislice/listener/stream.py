"""Events of a Tiled catalogue, over server restarts."""

import logging
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from tiled.client.container import Container
from tiled.client.stream import LiveChildCreated, LiveChildMetadataUpdated

_log = logging.getLogger(__name__)
_LARGEST_MESSAGE = 64 * 2**20
"""Bytes. Tiled closes the stream for good at a larger one; its default of 1 MB is less than some start documents."""


@dataclass(frozen=True)
class RunEvent:
    """A run has changed.

    Attributes:
        uid: the run.
        sequence: number of the event in the catalogue's stream.
        stopped: whether it has its stop document.
    """

    uid: str
    sequence: int
    stopped: bool


class RunStream(threading.Thread):
    """Follows the catalogue's event stream until told to stop.

    Args:
        connect: gives a client of the catalogue.
        sequence: number of the last event that the caller knows; None starts with the next one.
        on_event: called with each event, in this thread.
        retry_s: seconds between two attempts to reach the server.
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
        """Subscribe, and subscribe again whenever the server goes away."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever the server or the network does, the next attempt may work
                if not self._stopping.is_set():
                    _log.warning("Tiled's event stream is away (%s); next attempt in %g s", error, self._retry_s)
            self._stopping.wait(self._retry_s)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self._subscription:
            self._subscription.disconnect(wait=False)
        if self.is_alive():
            self.join(timeout=30)

    def _follow(self) -> None:
        client = self._connect()
        with closing(client.context):
            subscription = client.subscribe()
            subscription.child_created.add_callback(self._receive)
            subscription.child_metadata_updated.add_callback(self._receive)
            self._subscription = subscription
            start = None if self._sequence is None else self._sequence + 1
            subscription.start(start, max_size=_LARGEST_MESSAGE)  # blocks until the connection ends

    def _receive(self, update: LiveChildCreated | LiveChildMetadataUpdated) -> None:
        self._sequence = update.sequence
        self._on_event(RunEvent(update.key, update.sequence, bool((update.metadata or {}).get("stop"))))
