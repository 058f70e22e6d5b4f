"""Where the job of a command runs: its folder, and the process that imports the job early.

Imports little, so that this process starts before the command imports PyTorch itself.
"""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bluesky_multislice.errors import ScanError
from bluesky_multislice.jobs import EarlyRanks, JobFolder


@dataclass(frozen=True)
class JobPlace:
    """Where a job runs.

    Attributes:
        folder: folder for the job's state; an interrupted job resumes from there.
        early: process that imports the job; None: the job's own environment starts it.
    """

    folder: JobFolder
    early: EarlyRanks | None


@contextmanager
def job_place(output: Path, job_folder: Path | None, *, own_environment: bool) -> Iterator[JobPlace]:
    """Yield the place of a job whose result will be the output.

    Args:
        output: the result file.
        job_folder: the job folder; None: a temporary hidden folder beside the result.
        own_environment: whether the job runs with this interpreter and environment on this machine.

    Raises:
        ScanError: the folder of the result does not exist.
        JobError: the job folder cannot be created.
    """
    if not output.parent.is_dir():
        raise ScanError(
            "The folder of the result must exist.", got=f"{output.parent}.", remedy="create it or correct the path."
        )
    with ExitStack() as stack:
        if job_folder is None:
            job_folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent))
            )
        folder = JobFolder(job_folder.absolute()).create()
        yield JobPlace(folder, stack.enter_context(EarlyRanks(folder)) if own_environment else None)
