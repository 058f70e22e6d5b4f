"""The formats of scan files: those of this package, and entry points of other installed packages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import h5py

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files.cxi_scan import read_cxi
from bluesky_multislice.files.nxtomo_scan import is_nxtomo, read_nxtomo
from bluesky_multislice.measurement import Scan
from bluesky_multislice.recipe import Instrument, ScanValues

GROUP = "bluesky_multislice.formats"
"""Entry point group for a package's ``ScanFormat``."""


@dataclass(frozen=True)
class ScanFormat:
    """One format of scan files.

    Attributes:
        name: name in errors.
        matches: returns whether a path has this format; it does not raise for other files.
        read: reads a path, with values that override it and an instrument file for values that it lacks.
    """

    name: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, ScanValues, Instrument | None], Scan]


_FORMATS = (ScanFormat("NXtomo", is_nxtomo, read_nxtomo), ScanFormat("CXI", h5py.is_hdf5, read_cxi))
"""In order of search; the last one takes every HDF5 file."""


@cache
def scan_formats() -> tuple[ScanFormat, ...]:
    """Return the formats in the order of search: those of other packages, then those of this one.

    Raises:
        ScanError: an entry point is not a ``ScanFormat``, or its name is already in use.
    """
    found = {own.name: own for own in _FORMATS}
    others = list[ScanFormat]()
    for point in entry_points(group=GROUP):
        offered = point.load()
        if not isinstance(offered, ScanFormat):
            raise ScanError(
                "An entry point for a file format must be a ScanFormat.",
                got=f"{offered!r} from the entry point {point.name} = {point.value}.",
                remedy="correct the package, or remove it from this environment.",
            )
        if offered.name in found:
            raise ScanError(
                "Every file format needs a name of its own.",
                got=f"a second {offered.name} from the entry point {point.name} = {point.value}.",
                remedy="rename it in its package, or remove that package from this environment.",
            )
        found[offered.name] = offered
        others.append(offered)
    return (*others, *_FORMATS)


def read_scan(path: Path, *, values: ScanValues | None = None, instrument: Instrument | None = None) -> Scan:
    """Read a scan. Frames stay on disk until they are indexed.

    Args:
        path: a file of one of the ``scan_formats``.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: the file has no known format, or frames are missing or do not fit the views.
    """
    for scan_format in scan_formats():
        if scan_format.matches(path):
            return scan_format.read(path, values or ScanValues(), instrument)
    names = ", ".join(scan_format.name for scan_format in scan_formats())
    raise FramesError(
        f"A scan file must be readable and have one of the formats {names}.",
        got=f"{path}, which {'has none of them' if path.exists() else 'does not exist'}.",
        remedy=f"check the path and the file, or install a package with its format in the entry point group {GROUP}.",
    )
