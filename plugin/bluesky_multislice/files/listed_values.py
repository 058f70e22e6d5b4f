"""Arrays in files that a description of a scan names: text tables, ``.npy`` and ``.npz``.

A place is ``FILE``, ``FILE::COLUMN`` of a table or a two-dimensional array, ``FILE.npz::KEY`` or
``FILE.npz::KEY::COLUMN``. Columns are named by the first line of a table, or counted from 0.
"""

import math
import weakref
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.measurement import FrameSource

_RULE = "A file with values of a scan must be a readable table, .npy or .npz."
_REMEDY = "correct the path in the description of the scan: FILE, FILE::COLUMN, or FILE.npz::KEY."


def read_listed(place: str, folder: Path) -> NDArray:
    """Return the array at a place: (n,) of a column, or the whole array of a file without one.

    Args:
        place: the place.
        folder: folder of relative names.

    Raises:
        ScanError: the file cannot be read, or has no such array or column.
    """
    name, *parts = place.split("::")
    path = folder / Path(name).expanduser()
    try:
        if path.suffix.lower() == ".npz":
            if not parts:
                raise ValueError("the key of the array is missing")
            return _column(_member(path, parts[0]), parts[1:])
        if path.suffix.lower() == ".npy":
            return _column(np.load(path, allow_pickle=False), parts)
        return _table_column(path.read_text(), parts)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ScanError(_RULE, got=f"{place}: {str(error).strip(chr(39))}.", remedy=_REMEDY) from error


def npz_keys(path: Path) -> list[str]:
    """Return the names of the arrays of a ``.npz``.

    Raises:
        ScanError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except (OSError, zipfile.BadZipFile) as error:
        raise ScanError(_RULE, got=f"{path}: {error}.", remedy=_REMEDY) from error


def numpy_frames(path: Path, key: str | None) -> FrameSource:
    """Return the frames (row, y, x) of a ``.npy``, or of an array of a ``.npz``, without reading them.

    Args:
        path: the file.
        key: name of the array in a ``.npz``; None for a ``.npy``.

    Raises:
        FramesError: the file or the array is missing, damaged, or has other axes.
    """
    try:
        frames = np.load(path, "r", allow_pickle=False) if key is None else _member_frames(path, key)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FramesError(
            "A file of frames must be a readable .npy, or an array of a .npz.",
            got=f"{path}{'' if key is None else f'::{key}'}: {str(error).strip(chr(39))}.",
            remedy="restore the file, or correct the path.",
        ) from error
    shape = tuple(frames.shape)
    if isinstance(frames, np.ndarray) and len(shape) == 2:
        return frames[np.newaxis]
    if len(shape) != 3:
        raise FramesError(
            "Frames must be an array (view, y, x).", got=f"shape {shape} in {path}.", remedy="select another array."
        )
    return frames


class CompressedFrames:
    """Frames of a compressed array of a ``.npz``. They are read forwards without unpacking the array into memory.

    A step back begins at the start of the array again.

    Args:
        path: the file.
        key: name of the array.

    Raises:
        ValueError: the array is stored by columns.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._name = path, f"{key}.npy"
        self._member: IO[bytes] | None = None
        self._files = ExitStack()
        weakref.finalize(self, self._files.close)
        with zipfile.ZipFile(path) as archive, archive.open(self._name) as member:
            self.shape, by_columns, self.dtype = _header(member)
            self._begin = member.tell()
        if by_columns:
            raise ValueError("a compressed array that is stored by columns (Fortran order); use np.savez")
        self._size = math.prod(self.shape[1:]) * self.dtype.itemsize

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows.

        Raises:
            OSError: the file is damaged.
        """
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        try:
            if self._member is None:
                archive = self._files.enter_context(zipfile.ZipFile(self._path))
                self._member = self._files.enter_context(archive.open(self._name))
            member = self._member
            member.seek(self._begin + start * self._size)
            content = member.read(count * self._size)
        except Exception as error:  # zlib and zipfile raise errors of many types.
            raise OSError(f"{self._path}::{self._name}: {error}") from error
        if len(content) < count * self._size:
            raise OSError(f"{self._path}::{self._name}: it ends in row {start + len(content) // self._size}")
        return np.frombuffer(content, self.dtype).reshape(count, *self.shape[1:])


def _member_frames(path: Path, key: str) -> FrameSource:
    """Return an array of a ``.npz``: mapped into memory if it is not compressed."""
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f"{key}.npy")
        if entry.compress_type != zipfile.ZIP_STORED:
            return CompressedFrames(path, key)
        with archive.open(entry) as member:
            shape, by_columns, dtype = _header(member)
            header = member.tell()
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = np.frombuffer(file.read(4), "<u2")  # Of the member's name and extra field (PKWARE APPNOTE 4.3.7).
    offset = entry.header_offset + 30 + int(lengths.sum()) + header
    return np.memmap(path, dtype, "r", offset, shape, "F" if by_columns else "C")


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return shape, whether it is stored by columns, and type of an array, and leave the file at its first value."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    if dtype.hasobject:
        raise ValueError("Python objects instead of numbers")
    return shape, by_columns, dtype


def _member(path: Path, key: str) -> NDArray:
    with np.load(path, allow_pickle=False) as archive:
        if key not in archive:
            raise KeyError(f"no array {key}; it has {', '.join(archive.files)}")
        return archive[key]


def _column(array: NDArray, column: list[str]) -> NDArray:
    """Return the array, or a column of a two-dimensional one."""
    if not column:
        return array
    number = int(column[0])
    if array.ndim != 2 or not 0 <= number < array.shape[1]:
        raise ValueError(f"no column {number} in an array {array.shape}")
    return array[:, number]


def _table_column(text: str, column: list[str]) -> NDArray[np.float64]:
    """Return a column (n,) of a text table; without its name or number the table must have one column."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        raise ValueError("no lines")
    delimiter = next((mark for mark in (";", "\t", ",") if mark in lines[0]), None)
    rows = [[cell.strip().strip('"') for cell in line.split(delimiter)] for line in lines]
    names = [] if all(_is_number(cell) for cell in rows[0]) else rows.pop(0)
    width = len(names or rows[0])
    if not column and width > 1:
        raise ValueError(f"{width} columns ({', '.join(names) or 'without names'}), of which none is chosen")
    index = 0 if not column else names.index(column[0]) if column[0] in names else _index(column[0], names, width)
    short = next((number for number, row in enumerate(rows) if len(row) != width), None)
    if short is not None:
        raise ValueError(f"{len(rows[short])} values instead of {width} in row {short}")
    return np.array([float(row[index]) for row in rows])


def _index(column: str, names: list[str], width: int) -> int:
    if not column.isdecimal() or int(column) >= width:
        raise ValueError(f"no column {column}; it has {', '.join(names) or f'{width} without names'}")
    return int(column)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
