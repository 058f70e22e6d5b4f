"""Inspects a CXI or NeXus file: what was found where, and what is missing."""

from collections.abc import Callable
from pathlib import Path

import h5py

from bluesky_multislice.errors import FramesError, MultisliceError, ScanError
from bluesky_multislice.files.hdf5_lookup import Hdf5Lookup
from bluesky_multislice.files.hdf5_scan import frame_source, mask_of, open_scan, scan_with_frames
from bluesky_multislice.files.scan_inspection import (
    ScanInspection,
    count_announced,
    inspect_lookup,
    partial_frames,
)
from bluesky_multislice.files.stored_frames import StoredFrames, open_frames
from bluesky_multislice.measurement import Frames
from bluesky_multislice.recipe import FieldPlace


def inspect_hdf5(path: Path, look_up: Callable[[h5py.File], Hdf5Lookup]) -> ScanInspection:
    """Return what a file contains and what it lacks.

    Args:
        path: the file.
        look_up: open file → look-up of its values.

    Raises:
        FramesError: the file is unreadable.
    """
    errors: dict[str, MultisliceError] = {}
    try:
        file, data = open_frames(
            path, lambda file: look_up(file).frames_paths(), lambda file: count_announced(look_up(file))
        )
    except FramesError as error:
        file, data = open_scan(path), None
        errors["frames"] = error
    paired, lookup = look_up(file), look_up(file)
    frames = _frames(paired, data, errors)
    if paired.frame_rows is not None:
        lookup.pair(paired.frame_rows)
    found = lookup.find("frames")
    place = None if found is None else FieldPlace(path=found.path)
    reports = inspect_lookup(lookup, frames, errors, place)
    inspection = ScanInspection(str(path), reports, frames, warnings=tuple(lookup.warnings))
    return inspection.with_scan(lambda: scan_with_frames(path, look_up))


def _frames(lookup: Hdf5Lookup, data: StoredFrames | None, errors: dict[str, MultisliceError]) -> Frames | None:
    """Return the frames as far as they can be used, and add the errors of frames and mask."""
    mask, source = None, data
    try:
        mask = mask_of(lookup)
    except MultisliceError as error:
        errors["mask"] = error
    try:
        if "mask" not in errors and "frames" not in errors:
            source = frame_source(lookup, data)
        return None if source is None else partial_frames(source, lookup, mask)
    except FramesError as error:
        errors["frames"] = error
        return None
    except ScanError:  # The report of the value tells it.
        return None
