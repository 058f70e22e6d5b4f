"""Reads NXtomo files: full-field tomography, which is a series of holograms. Diamond's ``tomo_entry`` is one."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.hdf5_entry import Entry
from bluesky_multislice.files.hdf5_inspection import inspect_hdf5
from bluesky_multislice.files.hdf5_lookup import Hdf5Lookup
from bluesky_multislice.files.hdf5_scan import scan_with_frames
from bluesky_multislice.files.scan_inspection import ScanInspection
from bluesky_multislice.measurement import SCAN_FIELDS, FoundValue, Scan, ScanField, as_word, constant
from bluesky_multislice.recipe import Instrument, ScanValues

_DETECTOR = "instrument_1/detector_1"

_FLIPS = (
    (f"{_DETECTOR}/x_flipped", "x", 1.0),
    (f"{_DETECTOR}/y_flipped", "y", 1.0),
    (f"{_DETECTOR}/transformations/rx", "y", 180.0),
    (f"{_DETECTOR}/transformations/ry", "x", 180.0),
    (f"{_DETECTOR}/transformations/rz", "yx", 180.0),
)
"""Places of a detector's flips as nxtomo writes them: path, flipped axes of the frames, value of a flip.

The first two are those of nxtomo below 1.3; the others are rotations in degrees.
"""


class NXtomoLookup(Hdf5Lookup):
    """Looks up values in an NXtomo file."""

    def in_scan(self, field: ScanField) -> Iterator[FoundValue]:
        """Return the values of a field at its places; flips of the detector give its orientation."""
        yield from super().in_scan(field)
        if field.name == "orientation":
            yield from self._flips()

    def _flips(self) -> Iterator[FoundValue]:
        """Yield the orientation that follows from the detector's flips, if any are recorded.

        Raises:
            ScanError: the detector is rotated, but not by half a turn.
        """
        flipped, sources = {"y": False, "x": False}, []
        for path, axes, flip in _FLIPS:
            dataset = next(self.entry.datasets(path), None)
            if dataset is None:
                continue
            source = str(dataset.name)
            value = constant(np.ravel(np.asarray(dataset[()], float)), "flip of the detector", source)
            if abs(abs(value) - flip) > 1e-3 * flip and abs(value) > 1e-3 * flip:
                raise ScanError(
                    "A detector may be flipped, or rotated by 180°.",
                    got=f"{value:g} at {source}.",
                    remedy="set scan.orientation in the recipe.",
                )
            sources.append(source)
            for axis in axes:
                flipped[axis] ^= abs(value) > flip / 2
        if sources:
            both = "".join(axis for axis in "yx" if flipped[axis])
            yield FoundValue(f"flip_{both}" if both else "as_is", ", ".join(sources))

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
