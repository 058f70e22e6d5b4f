"""Reads the interchange file: CXI 1.6 and NXcxi_ptycho (table in docs/interchange.md)."""

from pathlib import Path

from bluesky_multislice.files.hdf5_inspection import inspect_hdf5
from bluesky_multislice.files.hdf5_lookup import Hdf5Lookup
from bluesky_multislice.files.hdf5_scan import open_scan, scan_with_frames, scan_without_frames
from bluesky_multislice.files.scan_inspection import ScanInspection
from bluesky_multislice.measurement import Scan
from bluesky_multislice.recipe import Instrument, ScanValues


def read_cxi(path: Path, values: ScanValues, instrument: Instrument | None) -> Scan:
    """Read a scan from a CXI file, or from any HDF5 file whose paths the instrument file gives.

    Args:
        path: the file.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: the file is unreadable, or frames are missing.
    """
    return scan_with_frames(path, lambda file: Hdf5Lookup(file, values, instrument))


def inspect_cxi(path: Path, values: ScanValues, instrument: Instrument | None) -> ScanInspection:
    """Return what a CXI file contains and lacks; the arguments are those of ``read_cxi``."""
    return inspect_hdf5(path, lambda file: Hdf5Lookup(file, values, instrument))


def read_geometry(path: Path, *, values: ScanValues | None = None, instrument: Instrument | None = None) -> Scan:
    """Read a CXI file without frames, for simulation. The returned frames are zero and have the shape of ``mask``.

    Args:
        path: the file.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.

    Raises:
        ScanError: a value is missing, or the file has no mask that gives the shape of the frames.
    """
    return scan_without_frames(Hdf5Lookup(open_scan(path), values or ScanValues(), instrument))
