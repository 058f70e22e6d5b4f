"""What a flow leaves in its job's folder for whoever comes after it: a sign of life, and what became of the job.

==================  ==============================================================================
``followed``        touched every few seconds by the flow that owns the job
``outcome.json``    what became of the job, once its flow has told: published, failed or cancelled
==================  ==============================================================================

A folder without an outcome whose flow gives no sign of life belongs to nobody: ``reap_jobs`` looks after it.
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

_BETWEEN_SIGNS_S = 5.0
GONE_AFTER_S = 60.0
"""Without a sign of life for so long, a flow counts as gone: a shared filesystem may show a touch late."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        state: how it ended, for whoever asked for it.
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
def writing_in(folder: JobFolder) -> Iterator[None]:
    """Give an error of the filesystem the words that whoever mends it needs.

    Raises:
        JobError: the folder cannot be written.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        # HDF5 finds only on closing that a disk is full, and h5py then raises a RuntimeError.
        if isinstance(error, RuntimeError) and "errno = " not in str(error):
            raise
        raise JobError(
            "The jobs folder must be there, writable by the flow, and have room.",
            got=f"{error}, for {folder.path}.",
            remedy="mount it, make room, or correct MULTISLICE_JOBS_ROOT and its owner; then run the flow again.",
        ) from error


def write_outcome(folder: JobFolder, outcome: Outcome) -> None:
    """Keep what became of a job; a disk that is full or gone does not hide the outcome itself from Prefect."""
    with suppress(OSError):
        write_json(folder.path / "outcome.json", asdict(outcome))


def read_outcome(folder: JobFolder) -> Outcome | None:
    """Return what became of a job; None where its flow has not told yet."""
    try:
        return Outcome(**json.loads((folder.path / "outcome.json").read_text()))
    except FileNotFoundError:
        return None


def forget_outcome(folder: JobFolder) -> None:
    """Forget what became of an earlier attempt."""
    (folder.path / "outcome.json").unlink(missing_ok=True)


@contextmanager
def followed(folder: JobFolder) -> Iterator[None]:
    """Give signs of life in the folder as long as the block runs."""
    ended = threading.Event()

    def give_signs() -> None:
        while True:
            with suppress(OSError):
                _sign(folder).touch()
            if ended.wait(_BETWEEN_SIGNS_S):
                return

    thread = threading.Thread(target=give_signs, name="sign-of-life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with suppress(OSError):
            _sign(folder).unlink(missing_ok=True)


def is_followed(folder: JobFolder, *, now: float) -> bool:
    """Return whether a flow gave a sign of life in the folder just before ``now``, s in the filesystem's own time."""
    try:
        return now - _sign(folder).stat().st_mtime < GONE_AFTER_S
    except FileNotFoundError:
        return False


def _sign(folder: JobFolder) -> Path:
    return folder.path / "followed"
