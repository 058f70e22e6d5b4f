"""Reads NXtomo files: full-field tomography, which is a series of holograms. Diamond's ``tomo_entry`` is one."""

from pathlib import Path

import h5py

from bluesky_multislice.files.hdf5_entry import Entry
from bluesky_multislice.files.hdf5_inspection import inspect_hdf5
from bluesky_multislice.files.hdf5_lookup import Hdf5Lookup
from bluesky_multislice.files.hdf5_scan import scan_with_frames
from bluesky_multislice.files.scan_inspection import ScanInspection
from bluesky_multislice.measurement import SCAN_FIELDS, FoundValue, Scan, as_word
from bluesky_multislice.recipe import Instrument, ScanValues


class NXtomoLookup(Hdf5Lookup):
    """Looks up values in an NXtomo file."""

    def implied_technique(self) -> FoundValue:
        """Return holography."""
        self.warnings.append("technique is not recorded; holography is assumed because the file is an NXtomo")
        return FoundValue("holography", "implied by NXtomo")


def is_nxtomo(path: Path) -> bool:
    """Return whether a file is an NXtomo.

    Without the entry's ``definition`` that is a file with rotation angles that is neither CXI nor has translations.
    """
    try:
        with h5py.File(path) as file:
            entry = Entry(file)
            definition = next(entry.datasets("definition"), None)
            if definition is not None:
                return as_word(definition[()]) == "NXtomo"
            angle = next(entry.datasets("sample_1/rotation_angle"), None)
            translated = any(next(entry.datasets(path), None) for path, _ in SCAN_FIELDS["position_x"].places)
            return angle is not None and (angle.size or 0) > 1 and "cxi_version" not in file and not translated
    except (OSError, RuntimeError):  # A RuntimeError for a virtual dataset whose source is being written.
        return False


def read_nxtomo(path: Path, values: ScanValues, instrument: Instrument | None) -> Scan:
    """Read a scan from an NXtomo file.

    Args:
        path: the file.
        values: values that override the file's.
        instrument: instrument file, searched for values that the file lacks.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: the file is unreadable, or frames are missing.
    """
    return scan_with_frames(path, lambda file: NXtomoLookup(file, values, instrument))


def inspect_nxtomo(path: Path, values: ScanValues, instrument: Instrument | None) -> ScanInspection:
    """Return what an NXtomo file contains and lacks; the arguments are those of ``read_nxtomo``."""
    return inspect_hdf5(path, lambda file: NXtomoLookup(file, values, instrument))
