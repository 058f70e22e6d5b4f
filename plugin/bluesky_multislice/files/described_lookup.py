"""Looks up the values of a scan in its description, a TOML file or the keys of a ``.npz``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.field_candidates import StoredValue
from bluesky_multislice.files.field_lookup import FieldLookup
from bluesky_multislice.files.listed_values import npz_keys, read_listed
from bluesky_multislice.measurement import Combination, FoundValue, ScanField, as_word
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanDescription, ScanValues, read_description, scan_fields

_UNIT = "_unit"
"""End of the key of a ``.npz`` with the unit of an array."""


class DescribedLookup(FieldLookup):
    """Looks up values in the description of a scan.

    Args:
        path: the description: a TOML file, or a ``.npz`` whose arrays have the names of the fields.
        values: the recipe's values.
        instrument: the instrument file; None if there is none.

    Attributes:
        path: the description.
        calibration_key: (row,) ``image_key`` of the darks and flats that follow the frames of the sample.
        views: number of frames of the sample, when they are known.

    Raises:
        ScanError: the description cannot be read.
    """

    DEFAULTS: ClassVar[Mapping[str, FoundValue]] = {"orientation": FoundValue("as_is", "absent: as_is")}

    def __init__(self, path: Path, values: ScanValues, instrument: Instrument | None) -> None:
        super().__init__(values, instrument)
        self.path = path
        self.description = _of_npz(path) if path.suffix.lower() == ".npz" else read_description(path)
        self.calibration_key: NDArray[np.intp] = np.empty(0, np.intp)
        self.views = 0

    @property
    def scan_name(self) -> str:
        """The path of the description."""
        return str(self.path)

    @property
    def combination(self) -> Combination | None:
        """Use of several frames per position, from the recipe, the description or the instrument file."""
        return self.values.frames_per_view or self.description.frames_per_view or super().combination

    def in_scan(self, field: ScanField) -> Iterator[FoundValue]:
        """Return the value of a field in the description."""
        if field.name == "image_key" and self.calibration_key.size:
            key = np.concatenate([np.zeros(self.views), self.calibration_key])
            yield FoundValue(key, "order of frames, darks and flats", "rows")
        described = self.description.fields.get(field.name)
        if described is None:
            return
        source = f"fields.{field.name}" + (f": {described.path}" if described.path else "")
        if field.kind == "other":
            yield FoundValue(described.path, source)
            return
        raw = described.value if described.path is None else read_listed(described.path, self.path.parent)
        if field.kind == "number":
            self.check_unit(field, described.unit, f"{source} of {self.path}")
        place = "rows" if field.per_view else "single"
        yield self.value(field, raw, source, place=place, written=described.unit)

    def at_path(self, field: ScanField, place: FieldPlace) -> FoundValue | None:
        """Return nothing: paths of an instrument file are places in HDF5 files and runs."""
        return None

    def places_in_scan(self, field: ScanField) -> list[str]:
        """Return the field's entry of the description."""
        return [f"fields.{field.name} of {self.path}"]

    def how_to_record(self, field: ScanField) -> str:
        """Return the field's entry of the description."""
        return f"add [fields.{field.name}] to {self.path}"

    def stored_values(self) -> Iterator[StoredValue]:
        """Return nothing: the description names everything."""
        return iter(())


def _of_npz(path: Path) -> ScanDescription:
    """Return the description of a scan in a ``.npz``: an array per field, and its unit in the key ``FIELD_unit``.

    Raises:
        ScanError: it cannot be read.
    """
    keys, fields = npz_keys(path), dict[str, dict[str, str]]()
    for name in scan_fields():
        if name in keys:
            fields[name] = {"path": f"{path.name}::{name}"}
            if name + _UNIT in keys:
                fields[name]["unit"] = as_word(read_listed(f"{path.name}::{name}{_UNIT}", path.parent))
    try:
        return ScanDescription.model_validate({"fields": fields})
    except ValueError as error:
        raise ScanError(
            "The arrays of a .npz must have the names of the fields of a scan.",
            got=f"{path}: {error}.",
            remedy="rename or leave out arrays; docs/how-to/describe-a-scan.md lists the names.",
        ) from error
