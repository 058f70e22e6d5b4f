"""The listener's state of an earlier release: a JSON file. It is read once and taken over."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

_log = logging.getLogger(__name__)
_SQLITE = b"SQLite format 3\0"
_SETTLED_S = 30 * 86400.0
"""How long before the file was last written runs may still need something, s."""


@dataclass(frozen=True)
class FormerState:
    """State of an earlier release.

    Attributes:
        path: the file.
        sequence: number of the last processed event; None before the first event.
        handed_over: run uid → digest of the recipe with which the run was handed over.
        written_s: when the file was written, s since 1970.
    """

    path: Path
    sequence: int | None
    handed_over: dict[str, str]
    written_s: float

    @property
    def oldest_s(self) -> float:
        """End of the oldest run that may still need something, s since 1970."""
        return self.written_s - _SETTLED_S

    def set_aside(self) -> None:
        """Rename the file, so that it is not read again."""
        self.path.rename(self.path.with_name(f"{self.path.name}.taken-over"))


def read_former_state(path: Path) -> FormerState | None:
    """Read the JSON file of an earlier release.

    Args:
        path: file of the present state. The JSON file has the same name with the suffix ``.json``. A JSON file in the
            place of the present state is first renamed to ``.former``.

    Returns:
        The state; None if there is no such file.

    Raises:
        OSError: a file cannot be read or renamed.
    """
    renamed = path.with_name(f"{path.name}.former")
    if path.is_file() and _begins_with(path, b"{"):
        path.rename(renamed)
    for place in (renamed, path.with_suffix(".json")):
        if place.is_file() and not _begins_with(place, _SQLITE):
            return _read(place)
    return None


def _begins_with(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _read(path: Path) -> FormerState:
    written_s = path.stat().st_mtime
    try:
        record = json.loads(path.read_bytes())
        handed_over = {str(uid): str(digest) for uid, digest in record["handed_over"].items()}
        return FormerState(path, record["sequence"], handed_over, written_s)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        _log.warning("The state %s of an earlier release cannot be read, and is left out: %s", path, error)
        return FormerState(path, None, {}, written_s)
