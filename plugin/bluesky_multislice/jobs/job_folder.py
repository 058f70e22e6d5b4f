"""The job folder: the whole contract between whoever asks for a reconstruction and the job that computes it.

=====================  ===========================================================================
``job.json``           recipe, plan, and the origin of the scan (identity, sources, warnings)
``frames.h5``          the scan as an interchange file; frames copied or linked where they lie
``progress.jsonl``     a line an epoch, written by rank 0
``log.txt``            what the job printed
``preview.png``        slices through the volume as it is, renewed every few minutes
``checkpoints/``       state to resume from; removed when the result is there
``result/volume.h5``   the result file; appears complete or not at all
``error.json``         rule, got and remedy of the error that ended the job
``stop-request``       asks a running job to stop; its presence is all that counts
``interrupted.json``   why a job stopped before its end, and the epoch that it goes on from
``submission.json``    the owner's name for the job, and its id at the scheduler
``cancelled``          there where somebody cancelled the job
``followed``           touched every few seconds by the flow that owns the job; see ``flows.job_record``
``outcome.json``       what became of the job: published, failed or cancelled
=====================  ===========================================================================

Stopping and going on. A job stops at the end of an epoch when one of its ranks gets SIGUSR1 or SIGTERM, or when
``stop-request`` is there. It then writes a checkpoint and ``interrupted.json``, removes ``stop-request``, and every
rank exits with status 75 (``INTERRUPTED_STATUS``). torchrun makes 1 of any such status: look for ``interrupted.json``.
Started again in the same folder, on as many ranks or others, the job goes on from its newest good checkpoint.

torchrun passes SIGTERM on to its ranks and kills them after ``PET_SHUTDOWN_TIMEOUT`` seconds (30 without it). SIGUSR1
kills torchrun itself, and its ranks live on, unless ``PET_SIGNALS_TO_HANDLE`` names it. The file needs neither, and
does no harm to a job that is only starting: a rank without its handlers yet dies of either signal. In a batch
script of Slurm::

    #SBATCH --signal=B:USR1@600      # seconds before the time limit: more than an epoch and a checkpoint take
    rm -f "$FOLDER/stop-request" "$FOLDER/interrupted.json"
    trap 'touch "$FOLDER/stop-request"' USR1
    srun torchrun ... -m bluesky_multislice.jobs.job "$FOLDER" &
    while kill -0 $!; do wait $!; done 2> /dev/null      # a trapped signal ends a wait early
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
from bluesky_multislice.jobs.safe_names import safe_name

INTERRUPTED_STATUS = 75
"""Exit status of ranks that stopped at a checkpoint: EX_TEMPFAIL of sysexits.h, try again."""


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
    def progress(self) -> Path:
        """A JSON line an epoch."""
        return self.path / "progress.jsonl"

    @property
    def log(self) -> Path:
        """Output of the job's processes."""
        return self.path / "log.txt"

    @property
    def preview(self) -> Path:
        """Slices through the volume as it is."""
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
        """Asks a running job to stop."""
        return self.path / "stop-request"

    @property
    def interrupted(self) -> Path:
        """Why a job stopped before its end."""
        return self.path / "interrupted.json"

    @property
    def submission(self) -> Path:
        """Name and id of the job that was submitted last."""
        return self.path / "submission.json"

    @property
    def cancelled(self) -> Path:
        """There where the job was cancelled."""
        return self.path / "cancelled"

    @classmethod
    def under(cls, root: Path, *names: str) -> "JobFolder":
        """Return the job folder of some names, such as a scan's and a flow run's, below a root.

        A name that is no plain word, such as one with a slash, becomes one: none leads out of the root.
        """
        return cls(root.absolute().joinpath(*(safe_name(name) for name in names)))

    def create(self, readers: Literal["user", "group"] = "group") -> "JobFolder":
        """Make the folder, private to its owner, or to the owner and the group.

        Raises:
            JobError: it cannot be made.
        """
        try:
            mode = 0o750 if readers == "group" else 0o700
            # mkdir gives its mode to the last folder only; a scan's flow runs are nobody's business either.
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=mode)
            self.path.mkdir(exist_ok=True, mode=mode)
            self.result.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise JobError(
                "A job folder must be writable.",
                got=f"{error}.",
                remedy="make room on the shared storage, or correct its owner.",
            ) from error
        return self

    def write_submission(self, *, name: str, job_id: str) -> None:
        """Keep which job was submitted, and forget that an earlier one was cancelled."""
        self.cancelled.unlink(missing_ok=True)
        write_json(self.submission, {"name": name, "job_id": job_id})

    def read_submission(self) -> dict[str, str] | None:
        """Return ``name`` and ``job_id`` of the job that was submitted last; None where none was."""
        return json.loads(self.submission.read_text()) if self.submission.exists() else None

    def read_log(self, lines: int) -> str:
        """Return the last lines that the job printed."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def write_job(self, *, recipe: dict[str, Any], plan: dict[str, Any], origin: dict[str, Any]) -> None:
        """Write ``job.json``, whole or not at all."""
        write_json(self.job, {"version": 1, "recipe": recipe, "plan": plan, "origin": origin})

    def read_job(self) -> dict[str, Any]:
        """Return ``job.json``."""
        try:
            return json.loads(self.job.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise JobError(
                "A job folder holds a readable job.json.",
                got=f"{self.job}: {error}.",
                remedy="stage the scan again with the flow or `multislice reconstruct`.",
            ) from error

    def forget_last_run(self) -> None:
        """Remove what an earlier run left and could be taken for this one's: error, interruption and progress.

        Checkpoints stay. A job that goes on from one reports the epochs before it again.
        """
        for path in (self.error, self.interrupted, self.progress):
            path.unlink(missing_ok=True)

    def request_stop(self) -> None:
        """Ask the job to write a checkpoint at the end of its epoch and to stop."""
        self.stop_request.touch()

    def withdraw_stop(self) -> None:
        """Take the request back, as before a job is started again."""
        self.stop_request.unlink(missing_ok=True)

    def write_interrupted(self, *, reason: str, epoch: int) -> None:
        """Say that the job stopped, and take the request for granted.

        Args:
            reason: ``SIGTERM``, ``SIGUSR1`` or ``stop-request``.
            epoch: epochs done of all fits; 0 where the job starts from the beginning again.
        """
        write_json(self.interrupted, {"reason": reason, "epoch": epoch})
        self.withdraw_stop()

    def read_interrupted(self) -> dict[str, Any] | None:
        """Return ``reason`` and ``epoch`` of a job that stopped before its end, None of any other."""
        return json.loads(self.interrupted.read_text()) if self.interrupted.exists() else None

    def write_error(self, error: BaseException) -> None:
        """Leave the error that ended the job for whoever waits for it; the first rank's stands."""
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
        """Return the error that ended the job, None where it left none."""
        if not self.error.exists():
            return None
        record = json.loads(self.error.read_text())
        kind = getattr(errors, record["kind"], JobError)
        return kind(record["rule"], got=record["got"], remedy=record["remedy"])

    def read_progress(self, start: int = 0) -> list[dict[str, Any]]:
        """Return the epochs written so far, from line ``start``; an unfinished last line is left for the next call."""
        if not self.progress.exists():
            return []
        lines = self.progress.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines[start:]]


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a JSON file that readers see whole or not at all."""
    part = path.with_suffix(f"{path.suffix}.{os.getpid()}.part")
    part.write_text(json.dumps(record, indent=1))
    os.replace(part, path)
