"""What the listener remembers over a restart."""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from bluesky_multislice.jobs import write_json

_log = logging.getLogger(__name__)


@dataclass
class ListenerState:
    """A small JSON file, written whole or not at all.

    Losing it is harmless: the sweep finds every run again and Prefect knows the ones it already has.

    Attributes:
        path: the file.
        sequence: number of the last event that was dealt with; None before the first.
        handed_over: run uid → digest of the recipe that it was handed over with.
    """

    path: Path
    sequence: int | None = None
    handed_over: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "ListenerState":
        """Read the file; start anew where there is none or it cannot be read."""
        try:
            record = json.loads(path.read_text())
            return cls(path, record["sequence"], dict(record["handed_over"]))
        except FileNotFoundError:
            return cls(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("Starting without the former state, %s cannot be read: %s", path, error)
            return cls(path)

    def dealt_with(self, sequence: int) -> None:
        """Remember an event."""
        self.sequence = sequence
        self._save()

    def hand_over(self, run_uid: str, digest: str) -> None:
        """Remember that a run was handed over."""
        self.handed_over[run_uid] = digest
        self._save()

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, {"sequence": self.sequence, "handed_over": self.handed_over})
