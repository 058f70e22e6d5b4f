"""The job folder: the whole contract between whoever asks for a reconstruction and the job that computes it.

=====================  ===========================================================================
``job.json``           recipe, plan, and the origin of the scan (identity, sources, warnings)
``frames.h5``          the scan as an interchange file; frames copied or linked where they lie
``progress.jsonl``     a line an epoch, written by rank 0
``log.txt``            what the job printed
``checkpoints/``       state to resume from
``result/volume.h5``   the result file; appears complete or not at all
``error.json``         rule, got and remedy of the error that ended the job
``submission.json``    the owner's name for the job, and its id at the scheduler
``cancelled``          there where somebody cancelled the job
=====================  ===========================================================================
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluesky_multislice import errors
from bluesky_multislice.errors import JobError, MultisliceError


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
    def result(self) -> Path:
        """The result file."""
        return self.path / "result" / "volume.h5"

    @property
    def error(self) -> Path:
        """The error that ended the job."""
        return self.path / "error.json"

    @property
    def submission(self) -> Path:
        """Name and id of the job that was submitted last."""
        return self.path / "submission.json"

    @property
    def cancelled(self) -> Path:
        """There where the job was cancelled."""
        return self.path / "cancelled"

    def create(self) -> "JobFolder":
        """Make the folder, private to its owner and group."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.result.parent.mkdir(exist_ok=True)
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
        """Remove the error and the progress that an earlier run left, so that they are not taken for this one's."""
        self.error.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)

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
