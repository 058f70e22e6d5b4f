"""Opens HDF5 files of detectors: files that are still being written, and frames in external raw files."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import h5py

from bluesky_multislice.errors import FramesError

PATIENCE_VARIABLE = "MULTISLICE_FRAMES_PATIENCE_S"
_PATIENCE_S = 60.0
_INTERVAL_S = 0.5
_IN_USE = ("unable to lock file", "already open for write")
"""Texts of HDF5's errors for a file that a detector still writes."""

_SIGNATURE = b"\x89HDF\r\n\x1a\n"

Found = TypeVar("Found")


class PendingFramesError(FramesError):
    """Frames are not there yet: the detector still writes its file."""


def patience_s() -> float:
    """Return how many seconds to wait for frames that a detector still writes.

    Raises:
        FramesError: the environment variable is not a number.
    """
    text = os.environ.get(PATIENCE_VARIABLE, str(_PATIENCE_S))
    try:
        return float(text)
    except ValueError as error:
        raise FramesError(
            f"{PATIENCE_VARIABLE} must be a number of seconds.", got=f"{text!r}.", remedy="correct or unset it."
        ) from error


def wait_for_frames(find: Callable[[], Found]) -> Found:
    """Return what ``find`` returns. Repeats it while frames are pending, for at most ``patience_s`` seconds.

    Raises:
        FramesError: the frames are not there in time, or ``find`` raises an error.
    """
    limit_s = patience_s()
    end = time.monotonic() + limit_s
    while True:
        try:
            return find()
        except PendingFramesError as error:
            if time.monotonic() > end:
                raise FramesError(
                    error.rule,
                    got=f"{error.got} The detector still has the file open after {limit_s:g} s.",
                    remedy=f"wait until the detector closes the file and repeat, or set {PATIENCE_VARIABLE}, which is "
                    f"{limit_s:g} s; if no program writes the file any more, repair it with h5clear -s.",
                ) from error
        time.sleep(_INTERVAL_S)


def open_detector_file(path: Path, *, swmr: bool = False) -> h5py.File:
    """Open a file for reading, also while a detector writes it by SWMR (single writer, multiple readers).

    ``swmr_mode`` of the returned file is True if it is being written, or if ``swmr`` was requested.

    Args:
        path: the file.
        swmr: open by SWMR in any case, because a file that this file links to is being written.

    Raises:
        PendingFramesError: a program writes the file, not by SWMR.
        OSError: the file cannot be read.
    """
    try:
        return h5py.File(path, "r", swmr=swmr)
    except OSError as error:
        # SWMR would also open a truncated file, and read zeros from it.
        if swmr or not (is_being_written(error) or _is_marked_as_open(path)):
            raise
        try:
            return h5py.File(path, "r", swmr=True)
        except OSError:
            raise PendingFramesError(
                "A detector must close its file, or write it by SWMR.",
                got=f"{path}: {error}.",
                remedy="wait until the detector closes the file.",
            ) from error


def is_being_written(error: Exception) -> bool:
    """Return whether HDF5's error says that a program writes the file."""
    return any(text in str(error) for text in _IN_USE)


def _is_marked_as_open(path: Path) -> bool:
    """Return whether a writer has marked the file as open, in the superblock (version 3) of the HDF5 format."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(12)
    return len(head) == 12 and head.startswith(_SIGNATURE) and head[8] >= 3 and bool(head[11] & 1)


def find_dataset(file: h5py.File, name: str) -> h5py.Dataset | None:
    """Return a dataset; None if there is none. Checks external raw files, which HDF5 reads as zeros if they are cut.

    Raw files are searched beside the HDF5 file, and then in the folder where HDF5 searches them.

    Raises:
        FramesError: an external raw file is missing or too short.
    """
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset) or not dataset.external:
        return dataset if isinstance(dataset, h5py.Dataset) else None
    folder, default = Path(file.filename).parent, Path(os.environ.get("HDF5_EXTFILE_PREFIX", ""))
    beside = all((folder / part).is_file() for part, _, _ in dataset.external)
    left = dataset.size * dataset.dtype.itemsize
    for part, offset, size in dataset.external:
        left -= _check_raw_file(file, (folder if beside else default) / part, offset, min(size, left))
    if not beside:
        return dataset
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_efile_prefix(b"${ORIGIN}")
    del dataset  # HDF5 keeps the prefix of a dataset that is open.
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


def _check_raw_file(file: h5py.File, path: Path, offset: int, needed: int) -> int:
    """Check that a raw file has the needed bytes from an offset on, and return their number."""
    present = path.stat().st_size - offset if path.is_file() else None
    if present is None or present < needed:
        raise FramesError(
            "A raw file with frames must be readable and complete.",
            got=f"{path}, to which {file.filename} refers: "
            + ("missing." if present is None else f"{present} bytes for {needed} bytes of frames."),
            remedy="restore the raw file, at the path that the dataset names or beside the HDF5 file.",
        )
    return needed
