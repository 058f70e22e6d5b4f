"""Records that a flow writes into the job folder: a heartbeat and the outcome of the job.

==================  ==============================================================================
``followed``        heartbeat: touched every few seconds by the flow that owns the job
``outcome.json``    outcome of the job, written by its flow: published, failed or cancelled
==================  ==============================================================================

``reap_jobs`` handles each folder that has neither an outcome nor a recent heartbeat.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from uuid import UUID

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder, write_json

_HEARTBEAT_INTERVAL_S = 5.0
HEARTBEAT_TIMEOUT_S = 60.0
"""A flow without a heartbeat for this time counts as dead. A shared filesystem may show a heartbeat late."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job.

    Attributes:
        state: how the job ended.
        message: the path in Tiled, or the error.
    """

    state: Literal["published", "failed", "cancelled"]
    message: str


def job_folders(jobs_root: Path) -> Iterator[tuple[UUID, JobFolder]]:
    """Yield every job folder with the id of its flow run."""
    for path in sorted(jobs_root.absolute().glob("*/*")):
        with suppress(ValueError):
            yield UUID(path.name), JobFolder(path)


@contextmanager
def explain_write_errors(folder: JobFolder) -> Iterator[None]:
    """Convert a filesystem error into a JobError that states the rule and the remedy.

    Raises:
        JobError: the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 detects a full disk only when it closes the file, and h5py then raises a RuntimeError.
        if isinstance(error, RuntimeError) and "errno = " not in str(error):
            raise
        raise JobError(
            "The jobs folder must exist, be writable by the flow, and have free space.",
            got=f"{error}, for {folder.path}.",
            remedy="mount it, make room, or correct MULTISLICE_JOBS_ROOT and its owner; then run the flow again.",
        ) from error


def write_outcome(folder: JobFolder, outcome: Outcome) -> None:
    """Write the outcome of a job. A filesystem error is ignored, because Prefect has the outcome too."""
    with suppress(OSError):
        write_json(folder.path / "outcome.json", asdict(outcome))


def read_outcome(folder: JobFolder) -> Outcome | None:
    """Return the outcome of a job; None if its flow has not written one yet."""
    try:
        return Outcome(**json.loads((folder.path / "outcome.json").read_text()))
    except FileNotFoundError:
        return None


def clear_outcome(folder: JobFolder) -> None:
    """Remove the outcome of an earlier attempt."""
    (folder.path / "outcome.json").unlink(missing_ok=True)


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
