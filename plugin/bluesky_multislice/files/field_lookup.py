"""Looks up the values of a scan in the recipe, the scan and the instrument file, and records each value's source."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.field_candidates import StoredValue
from bluesky_multislice.measurement import (
    Combination,
    FoundValue,
    FrameRows,
    PlaceKind,
    ScanField,
    as_numbers,
    as_word,
    bragg_energy_ev,
    chosen,
    mean_of_samples,
)
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
        frame_rows: event of each stored frame; None: one to one, or not known yet.
    """

    DEFAULTS: ClassVar[Mapping[str, FoundValue]] = {}
    """Values that the format defines for fields that are not recorded."""

    def __init__(self, values: ScanValues, instrument: Instrument | None) -> None:
        self.values, self.instrument = values, instrument
        self.fields = scan_fields()
        self.sources: dict[str, str] = {}
        self.warnings: list[str] = []
        self.absent: set[str] = set()
        self.frame_rows: FrameRows | None = None

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
        yield from (self.per_frame(field, found) for found in self.in_scan(field))
        place = None if self.instrument is None else self.instrument.fields.get(name)
        if self.instrument is not None and place is not None:
            source = f"instrument file {self.instrument.name}"
            if place.path is None:
                self.check_unit(field, place.unit, source)
                found = self.value(field, place.value, source, written=place.unit)
            elif place.crystal is not None:
                found = self._energy_of_monochromator(field, place, place.crystal)
            else:
                found = self._sampled(field, place, self.at_path(field, place))
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
        given = None if self.instrument is None else self.instrument.fields.get(name)
        if given is not None and found.source.startswith("instrument file"):
            return given
        if found.path is not None:
            return FieldPlace(path=found.path, unit=found.unit if field.kind == "number" else None)
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
            found, place = self.find(name), None if self.instrument is None else self.instrument.fields.get(name)
            sampled = place is not None and place.samples is not None and self.frame_rows is None
            if found is not None and np.ndim(found.value) and not sampled:
                return len(found.value)
        return 0

    def pair(self, rows: FrameRows) -> None:
        """Set the event of each stored frame. Values per event then become values per stored frame."""
        self.frame_rows = rows
        for name, field in self.fields.items():
            if field.per_view:
                self.sources.pop(name, None)
        if rows.dropped_text and not rows.partial:
            self.warnings.append(rows.dropped_text)

    @property
    def combination(self) -> Combination | None:
        """Use of several frames per event or position, from the recipe or the instrument file; None: not declared."""
        declared = None if self.instrument is None else self.instrument.frames_per_view
        return self.values.frames_per_view or declared

    def per_frame(self, field: ScanField, found: FoundValue) -> FoundValue:
        """Return a value with one number per stored frame, if it has one per event."""
        if self.frame_rows is None or not field.per_view or found.place != "rows" or np.ndim(found.value) != 1:
            return found
        return replace(found, value=self.frame_rows.per_row(found.value))

    def frame_times_s(self) -> NDArray[np.float64] | None:
        """Return (row,) the time of each stored frame, s; None if the scan does not record it."""
        found = self.find("frame_times")
        return None if found is None else np.ravel(found.value)

    def _energy_of_monochromator(self, field: ScanField, place: FieldPlace, crystal: str) -> FoundValue | None:
        """Return the energy that belongs to a Bragg angle."""
        found = self.at_path(replace(field, name="bragg_angle", unit="radian"), place)
        if found is None:
            return None
        return replace(
            found, value=bragg_energy_ev(found.value, crystal), source=f"{found.source}, Bragg angle of {crystal}"
        )

    def _sampled(self, field: ScanField, place: FieldPlace, found: FoundValue | None) -> FoundValue | None:
        """Return a value with one number per stored frame from several samples, as the instrument file declares."""
        if found is None or place.samples is None or self.frame_rows is None:
            return None if found is None else self.per_frame(field, found)
        samples = np.ravel(found.value)
        if place.times is not None:
            value = self._interpolated(field, samples, place.times)
            note = f"interpolated at the times of the frames from {len(samples)} samples at {place.times}"
        else:
            value = self._means(field, found, self.frame_rows)
            note = f"means of {len(samples) // len(value)} samples"
            value = self.frame_rows.per_row(value)
        return replace(found, value=value, source=f"{found.source}, {note}", place="rows")

    def _means(self, field: ScanField, found: FoundValue, rows: FrameRows) -> NDArray[np.float64]:
        """Return the means of the samples of each stored frame, or of each event."""
        for count in sorted({rows.events, len(rows.event)}, reverse=True):
            means = mean_of_samples(np.ravel(found.value), count)
            if means is not None:
                return means
        raise ScanError(
            "The mean of samples needs the same number of samples for each frame.",
            got=f"{np.size(found.value)} samples of {field.label} from {found.source} for {len(rows.event)} frames of "
            f"{rows.events} events.",
            remedy="use samples = interpolate with the times of the samples, or correct the recording.",
        )

    def _interpolated(self, field: ScanField, samples: NDArray[np.float64], path: str) -> NDArray[np.float64]:
        """Return samples (n,) interpolated at the times of the stored frames."""
        found = self.at_path(self.fields["frame_times"], FieldPlace(path=path))
        times_s, frames_s = None if found is None else np.ravel(found.value), self.frame_times_s()
        if times_s is None or frames_s is None:
            raise ScanError(
                "Interpolation needs the times of samples and frames.",
                got=f"no times of {'samples at ' + path if times_s is None else 'frames'} in {self.scan_name}.",
                remedy="correct times, or give the place of frame_times in the instrument file.",
            )
        step_s = np.ptp(times_s) / max(len(times_s) - 1, 1) if len(times_s) else 0.0
        fits = len(times_s) == len(samples) > 1 and (np.diff(times_s) > 0).all()
        if not fits or frames_s.min() < times_s[0] - step_s or frames_s.max() > times_s[-1] + step_s:
            span = f"from {times_s[0]:.3f} to {times_s[-1]:.3f} s" if len(times_s) else "that are none"
            raise ScanError(
                "The times of samples must grow, one per sample, and cover the frames.",
                got=f"{len(samples)} samples of {field.label} with {len(times_s)} times {span}; frames from "
                f"{frames_s.min():.3f} to {frames_s.max():.3f} s.",
                remedy="give times of the same clock as frame_times.",
            )
        return np.interp(frames_s, times_s, samples)

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
        if field.kind == "number" and field.unit is not None and not unit and field.name != "frame_times":
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
