"""Reports in the Prefect UI: progress while the job runs, figures of merit at its end.

If the Prefect server does not answer, updates are skipped and the job continues.
"""

import base64
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from bluesky_multislice.jobs import JobFolder, safe_name
from bluesky_multislice.jobs.schedulers import JobState, JobStatus

_BETWEEN_UPDATES_S = 2.0


class ProgressReport:
    """Shows a job's status and progress records as log lines, a progress bar and a preview image.

    Args:
        run_uid: the scan.
        epochs: largest number of epochs of the job.
        folder: the job folder, where the job writes previews of its volume.
        log: the flow run's logger.
    """

    def __init__(
        self, run_uid: str, epochs: int, folder: JobFolder, log: logging.Logger | logging.LoggerAdapter
    ) -> None:
        self._run_uid, self._epochs, self._folder, self._log = run_uid, epochs, folder, log
        self._said_at = self._shown_at = -_BETWEEN_UPDATES_S
        self._percent, self._line = 0.0, f"Epochs of {run_uid}"
        self._last: dict[str, Any] | None = None
        self._picture: UUID | None = None
        self._picture_time = 0.0
        self._artifact: UUID | None = None
        with _ignoring_prefect_errors(log):
            found = create_progress_artifact(0.0, key=artifact_key("progress", run_uid), description=self._line)
            self._artifact = found if isinstance(found, UUID) else None

    def on_status(self, status: JobStatus) -> None:
        """Report a change of the job's status, including the reason why it is pending."""
        self._log.info("Job %s", status)
        if not status.ended:
            self._line = f"Job {status}" if status.state is JobState.PENDING else self._line
            self._show()

    def on_progress(self, record: dict[str, Any]) -> None:
        """Report one record of ``progress.jsonl``."""
        first, self._last = not self._percent, record
        self._percent = min(100.0 * record["epoch"] / self._epochs, 100.0)
        self._line = progress_line(record, self._epochs)
        if first or record["epoch"] == self._epochs or time.monotonic() - self._said_at > _BETWEEN_UPDATES_S:
            self._log.info(self._line)
            self._said_at = time.monotonic()
        if time.monotonic() - self._shown_at > _BETWEEN_UPDATES_S:
            self._show()
            self._show_picture()

    def done(self) -> None:
        """Show that the job has ended, even if it stopped before the last epoch."""
        self._percent = 100.0
        if self._last is not None:
            self._line = progress_line(self._last, self._epochs, ended=True)
        self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        if self._artifact is not None:
            with _ignoring_prefect_errors(self._log):
                update_progress_artifact(self._artifact, self._percent, description=self._line)

    def _show_picture(self) -> None:
        """Show the job's preview if there is a newer one."""
        try:
            changed = self._folder.preview.stat().st_mtime
            picture = self._folder.preview.read_bytes()
        except FileNotFoundError:
            return
        if changed <= self._picture_time:
            return
        self._picture_time = changed
        address = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        caption = f"Central slices of δ: {self._line}"
        with _ignoring_prefect_errors(self._log), get_client(sync_client=True) as client:
            if self._picture is not None:
                client.update_artifact(self._picture, ArtifactUpdate(data=address, description=caption))
                return
            found = create_image_artifact(address, key=artifact_key("preview", self._run_uid), description=caption)
            self._picture = found if isinstance(found, UUID) else None


def progress_line(record: dict[str, Any], epochs: int, *, ended: bool = False, now: datetime | None = None) -> str:
    """Return one line for a record of ``progress.jsonl``: losses, speed, memory and expected end.

    Args:
        record: epoch, losses, seconds since the start of the first epoch, and memory of the largest rank if known.
        epochs: largest number of epochs of the job.
        ended: whether this is the job's last record.
        now: when the record was written; None: now.
    """
    parts = [f"Epoch {record['epoch']} of {epochs}: loss {record['loss']:.4g}"]
    if (held_back := record.get("held_back_loss")) is not None:
        parts.append(f"validation loss {held_back:.4g}")
    if (seconds := record.get("seconds") or 0.0) > 0:
        epochs_per_second = record["epoch"] / seconds
        end = (now or datetime.now(UTC)) + timedelta(seconds=max(0, epochs - record["epoch"]) / epochs_per_second)
        parts.append(f"{60 * epochs_per_second:.3g} epochs per minute")
        if not ended:
            parts.append(f"done by {end:%H:%M:%S} UTC at the latest")
    if memory := record.get("memory_bytes"):
        parts.append(f"memory {memory / 1e9:.2g} GB per rank")
    return ", ".join(parts)


def report_result(
    run_uid: str, path: str, *, tiled_uri: str, provenance: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Report a published reconstruction: its warnings, verdict, figures of merit and links to it.

    The reconstruction is published, whether Prefect can be told or not.

    Args:
        run_uid: the scan.
        path: path of the reconstruction in Tiled.
        tiled_uri: address of the Tiled server.
        provenance: provenance of the reconstruction; its ``figures`` are the figures of merit by name.
        seconds: duration of each stage.
    """
    log, figures = get_run_logger(), provenance["figures"]
    _report_verdict(provenance, log)
    server = tiled_uri.split("/api/v1")[0].rstrip("/")
    page = f"{server}/ui/browse/{quote(path)}/"
    picture = f"{server}/api/v1/array/full/{quote(path)}/preview?format=image/png"
    findings = [f"- {finding['reason']}: {finding['advice']}" for finding in figures["findings"]]
    known = {
        name: value
        for name, value in figures.items()
        if name != "findings" and value is not None and value not in ("", {}, [])
    }
    rows = [f"| {name.replace('_', ' ')} | {_text(value)} |" for name, value in known.items()]
    rows += [f"| {stage}, s | {_text(duration)} |" for stage, duration in seconds.items()]
    lines = [
        f"# Scan {safe_name(run_uid)}",
        f"In Tiled: [{quote(path)}]({page}), [picture of δ]({picture}).",
        "",
        f"Verdict: **{figures['verdict']}**",
        "",
        *findings,
        "",
        "| | |",
        "| --- | --- |",
        *rows,
    ]
    with _ignoring_prefect_errors(log):
        create_markdown_artifact(
            "\n".join(lines),
            key=artifact_key("reconstruction", run_uid),
            description=f"Reconstruction of {safe_name(run_uid)}",
        )


def _report_verdict(provenance: dict[str, Any], log: logging.Logger | logging.LoggerAdapter) -> None:
    """Write the job's warnings and the verdict into the log."""
    for warning in provenance["warnings"]:
        log.warning(warning)
    for finding in provenance["figures"]["findings"]:
        log.warning("%s: %s", finding["reason"], finding["advice"])
    log.info("Verdict: %s", provenance["figures"]["verdict"])


def artifact_key(kind: str, run_uid: str) -> str:
    """Return an artifact key of lower-case letters, digits and dashes, as Prefect requires."""
    name = safe_name(run_uid).lower().replace("_", "-").replace(".", "-")
    return f"{kind}-{name}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def _ignoring_prefect_errors(log: logging.Logger | logging.LoggerAdapter) -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:  # RuntimeError: the server is away
        log.warning("The report was not sent to Prefect: %s", type(error).__name__)
