"""Reads a scan from an HDF5 file: frames as the detector stored them, and the geometry."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files.detector_files import open_detector_file
from bluesky_multislice.files.hdf5_lookup import Hdf5Lookup
from bluesky_multislice.files.mask_file import PIXELS_CHECKED, recipe_mask
from bluesky_multislice.files.scan_of_values import paired_frames, probe_modes, scan_of_values
from bluesky_multislice.files.stored_frames import StoredFrames, open_frames
from bluesky_multislice.measurement import FrameSource, Scan, good_pixels, mask_bad_pixels


def open_scan(path: Path) -> h5py.File:
    """Open an HDF5 file.

    Raises:
        FramesError: it is missing or not HDF5.
    """
    try:
        return open_detector_file(path)
    except OSError as error:
        raise FramesError(
            "A scan file must be readable HDF5.", got=f"{path}: {error}.", remedy="check the path and the file."
        ) from error


def scan_with_frames(path: Path, look_up: Callable[[h5py.File], Hdf5Lookup]) -> Scan:
    """Return the scan of a file. Frames stay on disk until they are indexed.

    Args:
        path: the file.
        look_up: open file → look-up of its values.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: frames are missing.
    """
    file, data = open_frames(
        path, lambda file: look_up(file).frames_paths(), lambda file: look_up(file).announced_frames()
    )
    lookup = look_up(file)
    source = frame_source(lookup, data)
    scan = scan_of_values(lookup, source, mask_of(lookup), _probe(lookup))
    return scan if _pixels_checked(lookup) else mask_bad_pixels(scan)


def frame_source(lookup: Hdf5Lookup, data: StoredFrames | None) -> FrameSource:
    """Return the stored frames with one frame per view.

    Raises:
        FramesError: there are no frames, a good pixel has no source, or views have several frames that the recipe does
            not combine.
    """
    if data is None:
        raise FramesError(
            "A reconstruction needs frames.",
            got=f"no array of frames in {lookup.scan_name}; searched {', '.join(lookup.places('frames'))}.",
            remedy="write the frames there, or simulate them with `multislice simulate`.",
        )
    lookup.find("frames")
    data.check_mask(mask_of(lookup))
    return paired_frames(lookup, data, per_view=data.per_view)


def scan_without_frames(lookup: Hdf5Lookup) -> Scan:
    """Return the scan of a file without frames, for simulation. Its frames are zero and have the shape of the mask.

    Raises:
        ScanError: a value is missing, or the file has no mask that gives the shape of the frames.
    """
    mask = lookup.dataset("mask")
    if mask is None:
        raise lookup.missing("mask")
    rows = [np.size(found.value) for name in ("image_key", "position_x", "angle") if (found := lookup.find(name))]
    if not rows:
        raise lookup.missing("angle")
    source = np.broadcast_to(np.zeros(1, np.float32), (max(rows), *mask.shape))
    return scan_of_values(lookup, source, mask_of(lookup), _probe(lookup))


def mask_of(lookup: Hdf5Lookup) -> NDArray[np.bool_] | None:
    """Return (y, x) True for the good pixels of the recipe's or the file's mask; None if there is none.

    Raises:
        FramesError: the mask cannot be read, is no mask, or excludes most pixels.
    """
    given = recipe_mask(lookup.values, lookup.sources)
    if given is not None:
        return given
    mask = lookup.dataset("mask")
    if mask is None:
        return None
    declared = "good_is_zero" if _pixels_checked(lookup) else None
    origin = f"{lookup.scan_name}, {lookup.sources['mask']}"
    return good_pixels(mask[()], origin=origin, sense=lookup.values.mask_sense or declared)


def _pixels_checked(lookup: Hdf5Lookup) -> bool:
    """Return whether the mask was written by this package and includes all bad pixels."""
    mask = lookup.dataset("mask")
    return mask is not None and PIXELS_CHECKED in mask.attrs


def _probe(lookup: Hdf5Lookup) -> NDArray[np.complex64] | None:
    probe = lookup.dataset("probe")
    if probe is None:
        return None
    return probe_modes(np.asarray(probe), lookup.sources["probe"])
