"""Looks up the values of a scan in the recipe, the scan and the instrument file, and records each value's source."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.field_candidates import StoredValue
from bluesky_multislice.measurement import FoundValue, PlaceKind, ScanField, as_numbers, as_word, chosen
from bluesky_multislice.models import Technique, find_technique, techniques
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues, scan_fields, to_field_unit


class FieldLookup(ABC):
    """Looks up values in this order: the recipe's ``[scan]`` table, the scan, the instrument file.

    A subclass looks up values in one kind of scan.

    Args:
        values: the recipe's values.
        instrument: the instrument file; None if there is none.

    Attributes:
        fields: the fields of a scan by name.
        sources: field → source of its value; every successful look-up adds an entry.
        warnings: warnings about values.
        absent: fields that the scan does not record and that have a default value.
    """

    DEFAULTS: ClassVar[Mapping[str, FoundValue]] = {}
    """Values that the format defines for fields that are not recorded."""

    def __init__(self, values: ScanValues, instrument: Instrument | None) -> None:
        self.values, self.instrument = values, instrument
        self.fields = scan_fields()
        self.sources: dict[str, str] = {}
        self.warnings: list[str] = []
        self.absent: set[str] = set()

    @abstractmethod
    def in_scan(self, field: ScanField) -> Iterator[FoundValue]:
        """Return the values of a field in the scan, in the order of search."""

    @abstractmethod
    def at_path(self, field: ScanField, place: FieldPlace) -> FoundValue | None:
        """Return the value at a path of the instrument file; None if the scan has none there."""

    @abstractmethod
    def places_in_scan(self, field: ScanField) -> list[str]:
        """Return the places of a field in the scan, in the order of search."""

    @abstractmethod
    def how_to_record(self, field: ScanField) -> str:
        """Return how the scan can record a field, for errors."""

    @abstractmethod
    def stored_values(self) -> Iterator[StoredValue]:
        """Return everything that the scan stores, for suggestions of places."""

    @property
    @abstractmethod
    def scan_name(self) -> str:
        """Name of the scan in errors."""

    def candidates(self, name: str) -> Iterator[FoundValue]:
        """Return all values of a field, in the order of search.

        Raises:
            ScanError: a value is not of the field's kind or unit.
        """
        field = self.fields[name]
        given = self._in_recipe(field)
        if given is not None:
            yield self.value(field, given, f"recipe scan.{field.option}", defined=field.option_unit)
        yield from self.in_scan(field)
        place = None if self.instrument is None else self.instrument.fields.get(name)
        if self.instrument is not None and place is not None:
            source = f"instrument file {self.instrument.name}"
            found = self.at_path(field, place)
            if place.path is None:
                self.check_unit(field, place.unit, source)
                found = self.value(field, place.value, source, written=place.unit)
            if found is not None:
                yield replace(found, source=source + (f": {found.source}" if place.path else ""))

    def place_of(self, name: str) -> FieldPlace | None:
        """Return what an instrument file must say of a field that was found; None if it cannot say it.

        A value of the recipe becomes a fixed value.
        """
        field, source = self.fields[name], self.sources.get(name, "")
        found = next((one for one in self.candidates(name) if source.startswith(one.source)), None)
        if found is None:
            return None
        if found.path is not None:
            return FieldPlace(path=found.path, unit=found.unit if field.kind == "number" else None)
        if found.source.startswith("instrument file") and self.instrument is not None:
            return self.instrument.fields[name]
        given = self._in_recipe(field)
        return None if given is None else FieldPlace(value=given, unit=field.option_unit or field.unit)

    def find(self, name: str) -> FoundValue | None:
        """Return the first value of a field and record its source; None if there is none.

        Raises:
            ScanError: a value is not of the field's kind or unit.
        """
        found = next(self.candidates(name), None)
        if found is not None:
            self.sources.setdefault(name, found.source)
        return found

    def require(self, name: str) -> FoundValue:
        """Return the first value of a field, or the format's default.

        Raises:
            ScanError: there is neither; the error lists all searched places.
        """
        found = self.find(name)
        if found is None and name in self.DEFAULTS:
            found = self.DEFAULTS[name]
            self.sources[name] = found.source
            self.absent.add(name)
        if found is None:
            raise self.missing(name)
        return found

    def announced_frames(self) -> int:
        """Return the number of frames that the scan's other values announce; 0 if they announce none.

        Raises:
            ScanError: one of these values is not of its kind or unit.
        """
        for name in ("image_key", "position_x", "angle"):
            found = self.find(name)
            if found is not None and np.ndim(found.value):
                return len(found.value)
        return 0

    def technique(self) -> Technique:
        """Return the scan's technique.

        Raises:
            ScanError: it is missing or unknown.
        """
        found = self.find("technique") or self.implied_technique()
        if found is None:
            raise self.missing("technique")
        self.sources["technique"] = found.source
        return find_technique(chosen("technique", found, techniques()))

    def implied_technique(self) -> FoundValue | None:
        """Return the technique that the scan implies without recording it; None if it implies none."""
        return None

    def missing(self, name: str) -> ScanError:
        """Return the error for a field that was not found. It lists all searched places."""
        field = self.fields[name]
        remedies = [self.how_to_record(field)]
        if field.option is not None:
            flag, *of_value = field.option.split(".")
            option = " ".join([f"--{flag.replace('_', '-')}", *of_value])
            remedies.append(f"set it in the recipe's [scan] table ({option})")
        unit = f" ({field.unit})" if field.unit else ""
        remedies.append(f"give the path or the value of {name}{unit} in an instrument file")
        return ScanError(
            f"A scan needs {field.label}.",
            got=f"no {field.label} in {self.scan_name}; searched {', '.join(self.places(name))}.",
            remedy=", or ".join(filter(None, remedies)) + ".",
        )

    def places(self, name: str) -> list[str]:
        """Return all places that are searched for a field, in order."""
        field = self.fields[name]
        searched = [f"recipe scan.{field.option}"] if field.option else []
        searched += self.places_in_scan(field)
        if self.instrument is None:
            return [*searched, "instrument file (none given)"]
        place = self.instrument.fields.get(name)
        detail = f"no field {name}" if place is None else place.path or "value"
        return [*searched, f"instrument file {self.instrument.name} ({detail})"]

    def value(
        self,
        field: ScanField,
        raw: Any,
        source: str,
        *,
        place: PlaceKind = "single",
        written: str | None = None,
        defined: str | None = None,
    ) -> FoundValue:
        """Return a value in the field's unit.

        Args:
            field: the field.
            raw: the value as stored.
            source: source of the value.
            place: kind of the place.
            written: unit that stands beside the value; None: none.
            defined: unit that the format defines for this place; None: the field's unit.

        Raises:
            ScanError: the value is not of the field's kind or unit.
        """
        if field.kind != "number":
            return FoundValue(as_word(raw) if field.kind == "word" else raw, source, place)
        numbers = as_numbers(raw, field.label, source)
        if field.unit is not None:
            origin = f"{field.label} from {source}"
            numbers = to_field_unit(
                numbers, written=written or "", defined=defined or field.unit, unit=field.unit, source=origin
            )
        return FoundValue(np.asarray(numbers), source, place)

    def check_unit(self, field: ScanField, unit: str | None, source: str) -> None:
        """Raise a ScanError if a number has no unit at a place where the format defines none."""
        if field.kind == "number" and field.unit is not None and not unit:
            raise ScanError(
                "A number needs a unit.",
                got=f"{field.label} at {source} without a unit.",
                remedy=f"give its unit in the instrument file, such as {field.unit}, or in the device's describe().",
            )

    def _in_recipe(self, field: ScanField) -> Any:
        if field.option is None:
            return None
        table, _, name = field.option.partition(".")
        return getattr(self.values, table).get(name) if name else getattr(self.values, table)
