"""What an emulated device was asked to do: synchronisations and uploads by line, operators and bytes."""

import sys
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

Kind = Literal["synchronisation", "upload", "pinned copy", "collective", "error"]
"""``synchronisation``: the host waits for the device. ``upload``: from pageable memory, which blocks, too.
``pinned copy``: between the device and pinned memory, beside the host. ``error``: a rule that was broken."""

_PACKAGE = "/bluesky_multislice/"
_FRAMES = 2


class DeviceError(RuntimeError):
    """A rule of the device was broken."""


@dataclass(frozen=True)
class Note:
    """Something that happened.

    Attributes:
        kind: of what sort.
        what: the operator or function.
        where: the innermost lines of the package that asked for it, innermost first.
    """

    kind: Kind
    what: str
    where: str


def _where() -> str:
    """Return the innermost lines of the package; PyTorch's own threads of backward passes have none."""
    found, frame = [], sys._getframe(2)  # noqa: SLF001
    while frame is not None and len(found) < _FRAMES:
        name = frame.f_code.co_filename
        if _PACKAGE in name:
            found.append(f"{name.rpartition(_PACKAGE)[2]}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(found) or "outside the package"


class Log:
    """Counts, from all threads of the process.

    Attributes:
        notes: how often each thing happened.
        operators: how often each operator ran that would launch a kernel.
        bytes: how many bytes each of them read and wrote.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.notes: Counter[Note] = Counter()
        self.operators: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def note(self, kind: Kind, what: str) -> None:
        """Write down that something happened here."""
        note = Note(kind, what, _where())
        with self._lock:
            self.notes[note] += 1

    def ran(self, operator: str, moved_bytes: int) -> None:
        """Count an operator."""
        self.operators[operator] += 1
        self.bytes[operator] += moved_bytes

    def count(self, *kinds: Kind) -> int:
        """Return how often things of some kinds happened."""
        return sum(number for note, number in self.notes.items() if note.kind in kinds)

    def of(self, *kinds: Kind) -> list[tuple[int, Note]]:
        """Return what happened of some kinds, the most frequent first."""
        return sorted(((n, note) for note, n in self.notes.items() if note.kind in kinds), key=lambda each: -each[0])


LOG = Log()
