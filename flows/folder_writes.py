"""Writes of a flow into its job folder, and what it does if the filesystem refuses them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import JobFolder, JobRecord


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


def record_outcome(folder: JobFolder, transition: Callable[[JobRecord], JobRecord]) -> None:
    """Change the job's record to its outcome. A filesystem error is ignored, because Prefect has the outcome too."""
    with suppress(OSError):
        folder.write_record(transition(folder.read_record()))
