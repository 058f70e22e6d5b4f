"""What a person sees of a reconstruction in the Prefect UI: progress while it runs, figures at its end."""

import logging
import re
import time
from typing import Any
from urllib.parse import quote
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

_BETWEEN_UPDATES_S = 2.0


class ProgressReport:
    """Turns the job's progress records into log lines and a progress bar.

    Args:
        run_uid: the scan.
        epochs: most epochs that the job will do.
        log: the flow run's logger.
    """

    def __init__(self, run_uid: str, epochs: int, log: logging.Logger | logging.LoggerAdapter) -> None:
        self._epochs, self._log = epochs, log
        self._updated = -_BETWEEN_UPDATES_S
        self._artifact = create_progress_artifact(
            0.0, key=_key("progress", run_uid), description=f"Epochs of {run_uid}"
        )

    def __call__(self, record: dict[str, Any]) -> None:
        """Report one record of ``progress.jsonl``."""
        held_back = record.get("held_back_loss")
        judged = "" if held_back is None else f", held-back loss {held_back:.4g}"
        self._log.info("Epoch %d of %d: loss %.4g%s", record["epoch"], self._epochs, record["loss"], judged)
        if time.monotonic() - self._updated > _BETWEEN_UPDATES_S:
            self._show(100.0 * record["epoch"] / self._epochs)

    def done(self) -> None:
        """Show that the job has ended, also where it stopped early."""
        self._show(100.0)

    def _show(self, percent: float) -> None:
        if isinstance(self._artifact, UUID):
            update_progress_artifact(self._artifact, min(percent, 100.0))
        self._updated = time.monotonic()


def report_result(
    run_uid: str, path: str, *, tiled_uri: str, figures: dict[str, Any], seconds: dict[str, float]
) -> None:
    """Leave a page with the figures of a reconstruction and links to it.

    Args:
        run_uid: the scan.
        path: path of the reconstruction in Tiled.
        tiled_uri: address of the Tiled server.
        figures: figures of merit by name.
        seconds: duration of each stage.
    """
    server = tiled_uri.split("/api/v1")[0].rstrip("/")
    page = f"{server}/ui/browse/{quote(path)}/"
    picture = f"{server}/api/v1/array/full/{quote(path)}/preview?format=image/png"
    rows = [f"| {name.replace('_', ' ')} | {_text(value)} |" for name, value in figures.items()]
    rows += [f"| {stage}, s | {_text(duration)} |" for stage, duration in seconds.items()]
    create_markdown_artifact(
        "\n".join(
            [
                f"# Scan {run_uid}",
                f"In Tiled: [{path}]({page}), [picture of δ]({picture}).",
                "",
                "| | |",
                "| --- | --- |",
                *rows,
            ]
        ),
        key=_key("reconstruction", run_uid),
        description=f"Reconstruction of {run_uid}",
    )


def _key(kind: str, run_uid: str) -> str:
    """Artifact keys are lower-case letters, digits and dashes."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', run_uid.lower())}"


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
