"""Heartbeats of a flow in its job folder. The reaper handles a folder without a recent one."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bluesky_multislice.jobs import JobFolder

_HEARTBEAT_INTERVAL_S = 5.0
HEARTBEAT_TIMEOUT_S = 60.0
"""A flow without a heartbeat for this time counts as dead. A shared filesystem may show a heartbeat late."""


@contextmanager
def heartbeat(folder: JobFolder) -> Iterator[None]:
    """Write heartbeats into the folder while the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while True:
            with suppress(OSError):
                _heartbeat_file(folder).touch()
            if ended.wait(_HEARTBEAT_INTERVAL_S):
                return

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            _heartbeat_file(folder).unlink(missing_ok=True)


def has_heartbeat(folder: JobFolder, *, now: float) -> bool:
    """Return whether the folder has a recent heartbeat. ``now`` is the filesystem's clock, s."""
    try:
        return now - _heartbeat_file(folder).stat().st_mtime < HEARTBEAT_TIMEOUT_S
    except FileNotFoundError:
        return False


def _heartbeat_file(folder: JobFolder) -> Path:
    return folder.path / "followed"
