"""The job folder: the interface between the process that requests a reconstruction and the job that computes it.

=====================  ===========================================================================
``job.json``           recipe, plan, and the origin of the scan (identity, sources, warnings)
``frames.h5``          the scan as an interchange file; frames are copied, or linked to their files
``former.h5``          the former result that gives the initial guess, if the recipe names one; volumes may be links
``progress.jsonl``     one line per epoch, written by rank 0
``log.txt``            the output of the job's processes
``preview.png``        slices through the current volume, at most once per minute
``checkpoints/``       state to resume from; removed after the result is written
``result/volume.h5``   the result file; written completely or not at all
``error.json``         rule, got and remedy of the error that ended the job
``stop-request``       asks a running job to stop; the content is ignored
``interrupted.json``   why the job stopped early, and the epoch from which it resumes
``record.json``        the job's owner, its id at the scheduler, and its outcome; see ``jobs.job_record``
``cancelled``          exists if the job's processes were cancelled
``followed``           touched every few seconds by the flow that owns the job; see ``flows.heartbeat``
=====================  ===========================================================================

Stop and resume: a job stops at the end of an epoch if one of its ranks gets SIGUSR1 or SIGTERM, or if the file
``stop-request`` exists. The job then writes a checkpoint and ``interrupted.json`` and removes ``stop-request``. Every
rank exits with status 75 (``INTERRUPTED_STATUS``). The launcher replaces this status by 1, so check for
``interrupted.json``. A job that is started again in the same folder resumes from its newest valid checkpoint. The
number of ranks may differ.

The launcher forwards SIGTERM to its ranks and kills them after ``PET_SHUTDOWN_TIMEOUT`` seconds (default 30). SIGUSR1
kills the launcher but not its ranks, unless ``PET_SIGNALS_TO_HANDLE`` contains SIGUSR1. Prefer the file: it needs
neither setting, and it is safe while the job starts. Either signal kills a rank that has not installed its handlers
yet. In a Slurm batch script::

    #SBATCH --signal=B:USR1@600      # seconds before the time limit: more than an epoch and a checkpoint take
    rm -f "$FOLDER/stop-request" "$FOLDER/interrupted.json"
    trap 'touch "$FOLDER/stop-request"' USR1
    srun python -m bluesky_multislice.parallel.start_ranks ... -m bluesky_multislice.jobs.job "$FOLDER" &
    while kill -0 $!; do wait $!; done 2> /dev/null      # a trapped signal interrupts `wait`
    wait $!; status=$?
    [ -e "$FOLDER/interrupted.json" ] && status=75
    exit $status
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bluesky_multislice import errors
from bluesky_multislice.errors import JobError, MultisliceError
from bluesky_multislice.jobs.job_record import JobRecord
from bluesky_multislice.jobs.safe_names import safe_name

INTERRUPTED_STATUS = 75
"""Exit status of ranks that stopped at a checkpoint: EX_TEMPFAIL ("try again") of sysexits.h."""

_VERSION = 2
_STAGE_AGAIN = "stage the scan again with the flow or `multislice reconstruct`."


@dataclass(frozen=True)
class JobFolder:
    """Paths and records of one job.

    Attributes:
        path: the folder, on storage that the flow and the compute nodes share.
    """

    path: Path

    @property
    def job(self) -> Path:
        """Recipe, plan and origin."""
        return self.path / "job.json"

    @property
    def frames(self) -> Path:
        """The scan, an interchange file."""
        return self.path / "frames.h5"

    @property
    def former(self) -> Path:
        """The former result that gives the initial guess."""
        return self.path / "former.h5"

    @property
    def progress(self) -> Path:
        """Progress records, one JSON line per epoch."""
        return self.path / "progress.jsonl"

    @property
    def log(self) -> Path:
        """Output of the job's processes."""
        return self.path / "log.txt"

    @property
    def preview(self) -> Path:
        """Slices through the current volume."""
        return self.path / "preview.png"

    @property
    def result(self) -> Path:
        """The result file."""
        return self.path / "result" / "volume.h5"

    @property
    def error(self) -> Path:
        """The error that ended the job."""
        return self.path / "error.json"

    @property
    def checkpoints(self) -> Path:
        """State to resume from."""
        return self.path / "checkpoints"

    @property
    def stop_request(self) -> Path:
        """File whose existence asks a running job to stop."""
        return self.path / "stop-request"

    @property
    def interrupted(self) -> Path:
        """Why a job stopped early."""
        return self.path / "interrupted.json"

    @property
    def record(self) -> Path:
        """The job's owner, its id at the scheduler, and its outcome."""
        return self.path / "record.json"

    @property
    def cancelled(self) -> Path:
        """File that exists if the job's processes were cancelled."""
        return self.path / "cancelled"

    @classmethod
    def under(cls, root: Path, *names: str) -> "JobFolder":
        """Return the job folder ``root/name/name``, for example of a scan and a flow run.

        Each name is made safe for a path (see ``safe_name``), so that the folder is always below the root.
        """
        return cls(root.absolute().joinpath(*(safe_name(name) for name in names)))

    def create(self, readers: Literal["user", "group"] = "group") -> "JobFolder":
        """Create the folder, readable by its owner only or by the owner and the group.

        Raises:
            JobError: the folder cannot be created.
        """
        try:
            mode = 0o750 if readers == "group" else 0o700
            # mkdir applies its mode to the last folder only, so the parent is created with the same mode.
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=mode)
            self.path.mkdir(exist_ok=True, mode=mode)
            self.result.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise JobError(
                "A job folder must be writable.",
                got=f"{error}.",
                remedy="free space on the shared storage, or correct the folder's owner.",
            ) from error
        return self

    def prepare_submission(self) -> None:
        """Forget an earlier job of this folder, and the mark that it was cancelled."""
        self.cancelled.unlink(missing_ok=True)
        self.write_record(self.read_record().prepare())

    def write_submission(self, *, name: str, job_id: str) -> None:
        """Record the job that the scheduler has accepted."""
        self.write_record(self.read_record().submit(name=name, job_id=job_id))

    def read_record(self) -> JobRecord:
        """Return the job's record; the record of a staged job if nothing is recorded yet.

        Raises:
            JobError: another version of this package wrote the record, or it cannot be read.
        """
        return JobRecord.from_dict(_read_json(self.record)) if self.record.exists() else JobRecord()

    def write_record(self, record: JobRecord) -> None:
        """Write the job's record atomically."""
        write_json(self.record, record.as_dict())

    def read_log(self, lines: int) -> str:
        """Return the last lines of the job's output."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def write_job(self, *, recipe: dict[str, Any], plan: dict[str, Any], origin: dict[str, Any]) -> None:
        """Write ``job.json`` atomically."""
        write_json(self.job, {"version": _VERSION, "recipe": recipe, "plan": plan, "origin": origin})

    def read_job(self) -> dict[str, Any]:
        """Return ``job.json``.

        Raises:
            JobError: the file cannot be read, or another version of this package wrote it.
        """
        job = _read_json(self.job)
        if job.get("version") != _VERSION:
            raise JobError(
                f"A job.json must have version {_VERSION}.",
                got=f"version {job.get('version')} in {self.job}.",
                remedy=_STAGE_AGAIN,
            )
        return job

    def clear_last_run(self) -> None:
        """Remove error, interruption and progress of an earlier run, so that they are not mistaken for this run's.

        Checkpoints are kept. A resumed job writes the progress of the epochs before its checkpoint again.
        """
        for path in (self.error, self.interrupted, self.progress):
            path.unlink(missing_ok=True)

    def request_stop(self) -> None:
        """Ask the job to write a checkpoint at the end of the current epoch and to stop."""
        self.stop_request.touch()

    def withdraw_stop(self) -> None:
        """Withdraw the stop request, for example before a job is started again."""
        self.stop_request.unlink(missing_ok=True)

    def write_interrupted(self, *, reason: str, epoch: int) -> None:
        """Record that the job stopped early, and remove the stop request.

        Args:
            reason: ``SIGTERM``, ``SIGUSR1`` or ``stop-request``.
            epoch: completed epochs of all fits; 0 if the next run must start from the beginning.
        """
        write_json(self.interrupted, {"reason": reason, "epoch": epoch})
        self.withdraw_stop()

    def read_interrupted(self) -> dict[str, Any] | None:
        """Return ``reason`` and ``epoch`` of a job that stopped early; None for any other job."""
        return _read_json(self.interrupted) if self.interrupted.exists() else None

    def write_error(self, error: BaseException) -> None:
        """Write the error that ended the job. If several ranks fail, the first error is kept."""
        if self.error.exists():
            return
        if isinstance(error, MultisliceError):
            record = {"kind": type(error).__name__, "rule": error.rule, "got": error.got, "remedy": error.remedy}
        else:
            record = {
                "kind": type(error).__name__,
                "rule": "A job must end with a result.",
                "got": f"{type(error).__name__}: {error}",
                "remedy": f"see {self.log}.",
            }
        write_json(self.error, record)

    def read_error(self) -> MultisliceError | None:
        """Return the error that ended the job; None if there is none."""
        if not self.error.exists():
            return None
        record = _read_json(self.error)
        kind = getattr(errors, record["kind"], JobError)
        return kind(record["rule"], got=record["got"], remedy=record["remedy"])

    def read_progress(self, start: int = 0) -> list[dict[str, Any]]:
        """Return the progress records from line ``start`` on. An incomplete last line is left for the next call."""
        if not self.progress.exists():
            return []
        lines = self.progress.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines[start:]]


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file atomically: readers never see part of it, also after a power failure."""
    part = path.with_suffix(f"{path.suffix}.{os.getpid()}.part")
    with part.open("w") as file:
        file.write(json.dumps(record, indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        JobError: the file is empty or torn, or cannot be read.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(found, dict):
        raise _unreadable(path, f"a {type(found).__name__} instead of an object")
    return found


def _unreadable(path: Path, problem: str) -> JobError:
    return JobError(
        f"A job folder must contain a readable {path.name}.",
        got=f"{path}: {problem or 'an empty file'}.",
        remedy=_STAGE_AGAIN,
    )
