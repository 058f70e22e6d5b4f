"""The files of a series of frames in order, from a name, a glob pattern, or a printf pattern as ``tomo_%04d.tif``."""

import glob
import re
from pathlib import Path

from bluesky_multislice.errors import FramesError

_PRINTF = re.compile(r"%0?\d*d")

_MOST_NAMED = 5


def series_files(pattern: str, folder: Path) -> list[Path]:
    """Return the files of a series in natural order: a number in the names counts by its value.

    Args:
        pattern: a name; or a name with ``*``, ``?`` or ``[…]``; or one with ``%d`` or ``%04d``, whose numbers must be
            consecutive.
        folder: folder of relative names.

    Raises:
        FramesError: there is no such file, or numbers are missing between the first and the last.
    """
    whole = folder / Path(pattern).expanduser()
    if whole.is_file():
        return [whole]
    if _PRINTF.search(whole.name):
        return _numbered(whole)
    found = [Path(name) for name in glob.glob(str(whole), recursive=True)]
    files = sorted((path for path in found if path.is_file()), key=_natural)
    if not files:
        raise _no_file(whole)
    return files


def _numbered(pattern: Path) -> list[Path]:
    """Return the files of a printf pattern by number."""
    before, *rest = _PRINTF.split(pattern.name)
    if len(rest) != 1:
        raise FramesError(
            "A pattern of a series must contain one number.",
            got=f"{pattern}.",
            remedy="use one %d for the number of the frame, or a pattern with *.",
        )
    name = re.compile(re.escape(before) + r"(\d+)" + re.escape(rest[0]))
    entries = sorted(pattern.parent.iterdir()) if pattern.parent.is_dir() else []
    numbers = {int(match[1]): path for path in entries if (match := name.fullmatch(path.name)) is not None}
    if not numbers:
        raise _no_file(pattern)
    lost = sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))
    if lost:
        named = ", ".join(map(str, lost[:_MOST_NAMED])) + (", …" if len(lost) > _MOST_NAMED else "")
        raise FramesError(
            "The numbers of a series must be consecutive.",
            got=f"{pattern} with {len(numbers)} files from {min(numbers)} to {max(numbers)}, without {named}.",
            remedy="restore the missing files; if these frames were never taken, use a pattern with * and give the "
            "values of the others only.",
        )
    return [numbers[number] for number in sorted(numbers)]


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """Return the key of the natural order, in which 9 is before 10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]


def _no_file(pattern: Path) -> FramesError:
    return FramesError(
        "The files of the frames must exist.",
        got=f"no file {pattern}.",
        remedy="correct the path, which is relative to the description of the scan; mount the storage.",
    )
