"""The listener's persistent state."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from bluesky_multislice.jobs import write_json
from bluesky_multislice.recipe import SettingsError

_log = logging.getLogger(__name__)


@dataclass
class ListenerState:
    """A small JSON file, written atomically.

    Its loss is harmless: the sweep finds every run again, and Prefect recognises runs that it already has.

    Attributes:
        path: the file.
        sequence: number of the last processed event; None before the first event.
        handed_over: run uid → digest of the recipe with which the run was handed over.
    """

    path: Path
    sequence: int | None = None
    handed_over: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "ListenerState":
        """Read the file. Return an empty state if there is no readable file."""
        try:
            record = json.loads(path.read_text())
            return cls(path, record["sequence"], dict(record["handed_over"]))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("Starting with an empty state, because %s cannot be read: %s", path, error)
            return cls(path)

    def check_writable(self) -> None:
        """Write the file.

        Raises:
            SettingsError: it cannot be written.
        """
        try:
            self._write()
        except OSError as error:
            raise SettingsError(
                "The listener must be able to write its state.",
                got=f"{error}.",
                remedy="correct the owner of MULTISLICE_JOBS_ROOT or make room there, or give another file by --state.",
            ) from error

    def record_event(self, sequence: int) -> None:
        """Record an event as processed."""
        self.sequence = sequence
        self._save()

    def record_handover(self, run_uid: str, digest: str) -> None:
        """Record that a run was handed over."""
        self.handed_over[run_uid] = digest
        self._save()

    def _save(self) -> None:
        """Write the file, or tell that it cannot be written: the sweep makes up for what it lacks."""
        try:
            self._write()
        except OSError as error:
            _log.warning("The listener's state is not saved: %s", error)

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"sequence": self.sequence, "handed_over": self.handed_over})
