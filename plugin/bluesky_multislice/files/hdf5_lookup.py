"""Looks up the values of a scan in a CXI or NeXus file."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.basis_vectors import detector_axes
from bluesky_multislice.files.field_candidates import StoredValue
from bluesky_multislice.files.field_lookup import FieldLookup
from bluesky_multislice.files.hdf5_entry import Entry, all_datasets, units_of
from bluesky_multislice.measurement import FoundValue, PlaceKind, ScanField, as_numbers, as_word, constant
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues

_OF_AXES = ("orientation", "detector_rotation")
"""Fields that follow from the detector's basis vectors."""

_ROUNDING_RAD = 1e-5
"""Basis vectors are written with a few digits; rotations below this are none."""

_LEAST_TILT_RAD = 1e-3
"""Smallest tilt of the detector that a warning mentions."""

_LEAST_SCAN_M = 1e-8
"""Interferometers read positions back to a nanometre; the positions of a scan are further apart than this."""


class Hdf5Lookup(FieldLookup):
    """Looks up values in an open HDF5 file.

    Args:
        file: the open file.
        values: the recipe's values.
        instrument: the instrument file; None if there is none.
    """

    DEFAULTS: ClassVar[Mapping[str, FoundValue]] = {
        "angle": FoundValue(np.zeros(()), "absent: 0 by the interchange format"),
        "orientation": FoundValue("as_is", "absent: as_is"),
        "regime": FoundValue("far_field", "absent: far field by the interchange format"),
    }

    def __init__(self, file: h5py.File, values: ScanValues, instrument: Instrument | None) -> None:
        super().__init__(values, instrument)
        self.file, self.entry = file, Entry(file)
        if self.entry.others:
            self.warnings.append(f"only /{self.entry.name} is read; other entries: {', '.join(self.entry.others)}")

    @property
    def scan_name(self) -> str:
        """The file's path."""
        return self.file.filename

    def dataset(self, name: str) -> h5py.Dataset | None:
        """Return the dataset of an array such as ``frames``, and record its source; None if there is none."""
        found = self.find(name)
        return found.value if found is not None and isinstance(found.value, h5py.Dataset) else None

    def frames_paths(self) -> list[str]:
        """Return the paths at which the file has frames, in the order of search."""
        place = None if self.instrument is None else self.instrument.fields.get("frames")
        paths = [found for path, _ in self.fields["frames"].places for found in self.entry.paths(path)]
        return [*paths, place.path] if place is not None and place.path else paths

    def in_scan(self, field: ScanField) -> Iterator[FoundValue]:
        """Return the values of a field at its places in the file."""
        if field.name == "detector_rotation" and self.values.orientation is not None:
            return  # The recipe says that the basis vectors are wrong.
        for path, unit in field.places:
            if "{axis}" in path:
                yield from self._of_both_axes(field, path)
                continue
            for dataset_path in self.entry.paths(path):
                yield self._stored(field, dataset_path, unit)

    def at_path(self, field: ScanField, place: FieldPlace) -> FoundValue | None:
        """Return the value of the dataset at an absolute path."""
        dataset = self.file.get(place.path) if place.path and place.path.startswith("/") else None
        if not isinstance(dataset, h5py.Dataset):
            return None
        self.check_unit(field, place.unit or units_of(dataset), str(place.path))
        return self._stored(field, str(place.path), None, written=place.unit)

    def places_in_scan(self, field: ScanField) -> list[str]:
        """Return the field's paths."""
        return [f"/{self.entry.name}/{path.format(axis=axis)}" for path, _ in field.places for axis in _axes(path)]

    def how_to_record(self, field: ScanField) -> str:
        """Return the first path of a field."""
        paths = self.places_in_scan(field)
        return f"write {paths[0]}" if paths else ""

    def stored_values(self) -> Iterator[StoredValue]:
        """Return the datasets of the file."""
        for path, dataset in all_datasets(self.file):
            text = h5py.check_string_dtype(dataset.dtype) is not None
            value = as_word(dataset[()]) if text and dataset.size == 1 else None
            if dataset.size == 1 and dataset.dtype.kind in "iuf":
                value = float(np.ravel(dataset[()])[0])
            yield StoredValue(path, dataset.shape, "U" if text else dataset.dtype.kind, units_of(dataset), value)

    def implied_technique(self) -> FoundValue | None:
        """Return ptychography if the file is an NXcxi_ptycho, or if the sample was translated."""
        definition = next(self.entry.datasets("definition"), None)
        if definition is not None and "ptycho" in as_word(definition[()]):
            self.warnings.append("technique is not recorded; ptychography is assumed because of the file's definition")
            return FoundValue("ptychography", f"implied by {definition.name}")
        if any(self._range_in_views(name) > _LEAST_SCAN_M for name in ("position_y", "position_x")):
            self.warnings.append("technique is not recorded; ptychography is assumed because the sample was translated")
            return FoundValue("ptychography", "implied by positions that differ")
        return None

    def _range_in_views(self, name: str) -> float:
        """Return the range of a field's values, without those of darks and flats; 0 if there are none."""
        found, key = self.find(name), self.find("image_key")
        values = np.zeros(1) if found is None else np.ravel(found.value)
        if key is not None and np.size(key.value) == len(values):
            values = values[np.ravel(key.value) == 0]
        values = values[np.isfinite(values)]
        return float(np.ptp(values)) if values.size else 0.0

    def _stored(self, field: ScanField, path: str, unit: str | None, *, written: str | None = None) -> FoundValue:
        dataset: h5py.Dataset = self.file[path]  # pyright: ignore[reportAssignmentType]
        source = self._path_of(dataset)
        place: PlaceKind = "rows" if field.per_view else "single"
        if field.kind == "other":
            return FoundValue(dataset, source, path=path)
        raw = _read(dataset, source)
        if field.name in _OF_AXES and (dataset.size or 0) > 1 and dataset.dtype.kind in "iuf":
            return self._of_axes(field, as_numbers(raw, field.label, source).reshape(dataset.shape), source, path)
        if isinstance(raw, np.ndarray) and raw.ndim > 1 and raw.size == len(raw):
            raw = raw.ravel()
        if field.column is not None and (unit is not None or raw.ndim != 1):
            raw = _column(raw, field.column, source)
        written = written or units_of(dataset)
        found = self.value(field, raw, source, place=place, written=written, defined=unit)
        return replace(found, path=path, unit=written or unit)

    def _of_axes(self, field: ScanField, vectors: NDArray[np.float64], source: str, path: str) -> FoundValue:
        """Return the orientation, or the rotation in the detector's plane, from the detector's basis vectors."""
        axes = detector_axes(vectors)
        if field.name == "orientation":
            return FoundValue(axes.orientation, source, path=path)
        tilt = f"the detector's tilt of {np.degrees(axes.tilt_rad):.2f}° towards the beam is neglected, from {source}"
        if axes.tilt_rad > _LEAST_TILT_RAD and tilt not in self.warnings:
            self.warnings.append(tilt)
        rotation_rad = axes.rotation_rad if abs(axes.rotation_rad) > _ROUNDING_RAD else 0.0
        return FoundValue(np.array(rotation_rad), source)

    def _path_of(self, dataset: h5py.Dataset) -> str:
        """Return the path of a dataset, with the name of its file if that is another one."""
        other = dataset.file.filename
        return str(dataset.name) if other == self.file.filename else f"{Path(other).name}:{dataset.name}"

    def _of_both_axes(self, field: ScanField, path: str) -> Iterator[FoundValue]:
        """Return the numbers (y, x) of a field that is stored in two datasets."""
        unit = field.stored_unit or field.unit
        paths = [next(self.entry.paths(path.format(axis=axis)), None) for axis in "yx"]
        found = [self._stored(field, one, unit) for one in paths if one is not None]
        if len(found) == 2:
            numbers = [constant(one.value, field.label, one.source) for one in found]
            both = " and ".join(one.source for one in found)
            # An instrument file names one dataset: it can give square pixels only.
            yield FoundValue(
                np.array(numbers), both, path=found[0].path if np.ptp(numbers) == 0 else None, unit=found[0].unit
            )


def _read(dataset: h5py.Dataset, source: str) -> Any:
    try:
        return dataset[()]
    except OSError as error:
        raise ScanError(
            "Every value of a scan file must be readable.", got=f"{source}: {error}.", remedy="restore the file."
        ) from error


def _axes(path: str) -> str:
    return "yx" if "{axis}" in path else "-"


def _column(stored: NDArray, column: int, source: str) -> NDArray:
    """Return one column of an array (view, 2) or (view, 3)."""
    if stored.ndim != 2 or stored.shape[1] not in (2, 3):
        raise ScanError(
            "The sample translation must be (view, 3): x, y and z in metres.",
            got=f"an array {stored.shape} at {source}.",
            remedy="correct it there.",
        )
    return stored[:, column]
