"""The formats of scan files: those of this package, and entry points of other installed packages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py

from bluesky_multislice.errors import FramesError
from bluesky_multislice.extensions import with_extensions
from bluesky_multislice.files.cxi_scan import inspect_cxi, read_cxi
from bluesky_multislice.files.described_scan import inspect_described, is_description, is_npz, read_described
from bluesky_multislice.files.nxtomo_scan import inspect_nxtomo, is_nxtomo, read_nxtomo
from bluesky_multislice.files.scan_inspection import ScanInspection, inspection_of_scan
from bluesky_multislice.measurement import Scan, process_frames
from bluesky_multislice.recipe import FrameProcessing, Instrument, ScanValues

GROUP = "bluesky_multislice.formats"
"""Entry point group for a package's ``ScanFormat``."""


@dataclass(frozen=True)
class ScanFormat:
    """One format of scan files.

    Attributes:
        name: name in errors.
        matches: returns whether a path has this format; it does not raise for other files.
        read: reads a path, with values that override it and an instrument file for values that it lacks.
        inspect: tells of a path what was found where and what is missing, with the same arguments. None: only what
            ``read`` returns or raises.
    """

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, ScanValues, Instrument | None], Scan]
    inspect: Callable[[Path, ScanValues, Instrument | None], ScanInspection] | None = None


_FORMATS = (
    ScanFormat("described TIFF or NumPy", is_description, read_described, inspect_described),
    ScanFormat("NumPy archive", is_npz, read_described, inspect_described),
    ScanFormat("NXtomo", is_nxtomo, read_nxtomo, inspect_nxtomo),
    ScanFormat("CXI", h5py.is_hdf5, read_cxi, inspect_cxi),
)
"""In order of search; the last one takes every HDF5 file."""


@cache
def scan_formats() -> tuple[ScanFormat, ...]:
    """Return the formats in the order of search: those of other packages, then those of this one.

    Raises:
        ExtensionError: an entry point is not a ``ScanFormat``, or its name is already in use.
    """
    own = {scan_format.name: scan_format for scan_format in _FORMATS}
    found = with_extensions(
        own, group=GROUP, rule="a ScanFormat", accepts=lambda offered: isinstance(offered, ScanFormat)
    )
    return (*list(found.values())[len(own) :], *_FORMATS)


def read_scan(
    path: Path,
    *,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    frames: FrameProcessing | None = None,
) -> Scan:
    """Read a scan. Frames stay on disk until they are indexed.

    Args:
        path: a file of one of the ``scan_formats``.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.
        frames: processing of the frames; None: they are read as stored.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: the file has no known format, or frames are missing or do not fit the views.
    """
    scan = _format_of(path).read(path, values or ScanValues(), instrument)
    return scan if frames is None else process_frames(scan, frames.steps)


def inspect_scan(
    path: Path,
    *,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    frames: FrameProcessing | None = None,
) -> ScanInspection:
    """Return what a scan file contains and lacks. Missing and unusable values are listed, not raised.

    Args:
        path: a file of one of the ``scan_formats``.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.
        frames: processing of the frames; None: they are read as stored.

    Raises:
        FramesError: the file is unreadable or has no known format.
    """
    scan_format = _format_of(path)
    if scan_format.inspect is None:
        found = inspection_of_scan(str(path), lambda: scan_format.read(path, values or ScanValues(), instrument))
    else:
        found = scan_format.inspect(path, values or ScanValues(), instrument)
    return found if frames is None else found.processed(frames.steps)


def _format_of(path: Path) -> ScanFormat:
    for scan_format in scan_formats():
        if scan_format.matches(path):
            return scan_format
    names = ", ".join(scan_format.name for scan_format in scan_formats())
    raise FramesError(
        f"A scan file must be readable and have one of the formats {names}.",
        got=f"{path}, which {'has none of them' if path.exists() else 'does not exist'}.",
        remedy=f"check the path and the file, or install a package with its format in the entry point group {GROUP}.",
    )
