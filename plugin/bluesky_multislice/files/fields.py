"""Looks up the values of a scan in recipe, interchange file and instrument file, and records each value's source."""

from dataclasses import dataclass, field

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.recipe import Instrument, ScanValues, convert, scan_fields

ENTRY = "entry_1"
DETECTOR = f"{ENTRY}/instrument_1/detector_1"
DATA = f"{DETECTOR}/data"
SOURCE = f"{ENTRY}/instrument_1/source_1"
SAMPLE = f"{ENTRY}/sample_1"
PIXELS_CHECKED = "pixels_checked"
"""Attribute of a mask that includes all bad pixels that were found in the frames; 0 means good in it."""


@dataclass
class FieldLookup:
    """Looks up values in this order: the recipe's ``[scan]`` table, the interchange file, the instrument file.

    Attributes:
        file: the open interchange file.
        values: the recipe's values.
        instrument: the instrument file; None if there is none.
        sources: field → source of its value; every successful look-up adds an entry.
    """

    file: h5py.File
    values: ScanValues
    instrument: Instrument | None
    sources: dict[str, str] = field(default_factory=dict)

    def text(self, name: str, *places: str) -> str | None:
        """Return a text value; None if it is not found."""
        found = self._first(name, places, getattr(self.values, name, None), f"recipe scan.{name}")
        if isinstance(found, h5py.Dataset):
            found = found[()]
        return found.decode() if isinstance(found, bytes) else None if found is None else str(found)

    def number(
        self, name: str, *places: str, override: float | None = None, override_name: str = ""
    ) -> NDArray[np.float64] | None:
        """Return one number () or one number per row (row,), in the file's SI unit; None if it is not found.

        Args:
            name: name of the field.
            places: paths in the file.
            override: the recipe's value, in the same unit.
            override_name: name of the recipe's field.

        Raises:
            ScanError: the value is not a number.
        """
        found = self._first(name, places, override, f"recipe scan.{override_name}")
        if found is None:
            return None
        value = found[()] if isinstance(found, h5py.Dataset) else found
        try:
            numbers = np.asarray(value, float)
        except (TypeError, ValueError) as error:
            raise ScanError(
                f"The field {name} must hold numbers.",
                got=f"{value!r} from {self.sources[name]}.",
                remedy="correct it, or set it in the recipe's [scan] table.",
            ) from error
        return numbers.reshape(()) if numbers.shape == (1,) else numbers

    def single(self, name: str, found: NDArray[np.float64]) -> float:
        """Return the value of a field that must be a single number.

        Raises:
            ScanError: the value is an array.
        """
        if found.ndim:
            raise ScanError(
                f"A scan must have a single value of {name}.",
                got=f"an array {found.shape} from {self.sources[name]}.",
                remedy="write one number, or set it in the recipe's [scan] table.",
            )
        return float(found)

    def required(
        self, name: str, *places: str, override: float | None = None, override_name: str = ""
    ) -> NDArray[np.float64]:
        """Like ``number``, but raise a ScanError that lists all searched places if the value is missing."""
        found = self.number(name, *places, override=override, override_name=override_name)
        if found is None:
            raise self.missing(name, *places, override_name=override_name)
        return found

    def missing(self, name: str, *places: str, override_name: str = "") -> ScanError:
        """Return the error for a field that was not found."""
        searched = [f"recipe scan.{override_name}"] if override_name else []
        searched += [f"/{place}" for place in places]
        searched.append(f"instrument file ({'none given' if self.instrument is None else self.instrument.name})")
        flag, *name_of_value = override_name.split(".")
        option = f" ({' '.join(['--' + flag.replace('_', '-'), *name_of_value])})" if flag else ""
        return ScanError(
            f"A scan needs {name}.",
            got=f"no {name} in {self.file.filename}; searched {', '.join(searched)}.",
            remedy=f"write /{places[0]}, or set it in the recipe's [scan] table{option} or in an instrument file.",
        )

    def _first(self, name: str, places: tuple[str, ...], override: object, override_source: str):
        if override is not None:
            self.sources[name] = override_source
            return override
        for place in places:
            found = self.file.get(place)
            if isinstance(found, h5py.Dataset):
                self.sources[name] = f"/{place}"
                return found
        place = None if self.instrument is None else self.instrument.fields.get(name)
        if self.instrument is None or place is None or place.value is None:
            return None
        self.sources[name] = f"instrument file {self.instrument.name}"
        unit = scan_fields()[name]
        return place.value if unit is None else convert(float(place.value), place.unit or unit, unit)
