"""Looks up the values of a scan in the events, documents and configuration of a Bluesky run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.catalog.run_documents import EventStream, RunDocuments
from bluesky_multislice.files import FieldLookup, StoredValue
from bluesky_multislice.measurement import FoundValue, PlaceKind, ScanField
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues

_CALIBRATIONS = ("dark", "darks", "flat", "flats")
"""Names of streams that are not searched for frames of the sample."""


class RunLookup(FieldLookup):
    """Looks up values in one run: in the events, then in the start document.

    Args:
        run: the run.
        values: the recipe's values.
        instrument: the instrument file; None if there is none.

    Attributes:
        run: the run.
    """

    DEFAULTS: ClassVar[Mapping[str, FoundValue]] = {
        "orientation": FoundValue("as_is", "absent: as_is by the metadata contract")
    }

    def __init__(self, run: RunDocuments, values: ScanValues, instrument: Instrument | None) -> None:
        super().__init__(values, instrument)
        self.run = run
        self.warnings += [str(text) for text in run.start.get("warnings", [])]

    @property
    def scan_name(self) -> str:
        """The run's unique identifier."""
        return f"run {self.run.uid}"

    @cached_property
    def frames_stream(self) -> str:
        """Stream with the frames: that of the instrument file, else ``primary``, else the only one with images."""
        place = None if self.instrument is None else self.instrument.fields.get("frames")
        named = (place.path or "").partition(":")[0] if place is not None else ""
        if named in self.run.streams or "primary" in self.run.streams:
            return named if named in self.run.streams else "primary"
        images = [name for name, stream in self.run.streams.items() if stream.images and name not in _CALIBRATIONS]
        return images[0] if len(images) == 1 else "primary"

    def frame_times_s(self) -> NDArray[np.float64] | None:
        """Return (row,) the time of each stored frame, s: the recorded one, else that of its event."""
        recorded = super().frame_times_s()
        times = self.event_times_s() if recorded is None else recorded
        if times is None or self.frame_rows is None:
            return times
        times = self.frame_rows.per_row(times)
        return times if len(times) == len(self.frame_rows.event) else None

    def event_times_s(self) -> NDArray[np.float64] | None:
        """Return (event,) the times of the events with frames, s; None if they are not recorded."""
        stream = self.run.streams.get(self.frames_stream)
        times = None if stream is None else stream.read("time")
        return None if times is None else np.asarray(times, float)

    def in_scan(self, field: ScanField) -> Iterator[FoundValue]:
        """Return the values of a field in the events, the stream ``static`` and the start document."""
        places = [(self.frames_stream, self._event_key(field)), ("static", field.static_key)]
        declared = None if self.instrument is None else self.instrument.fields.get(field.name)
        for stream, key in places:
            if key is None:
                continue
            if declared is not None and declared.path == f"{stream}:{key}":
                events = self.run.streams.get(stream)
                if declared.samples or events is None or not events.data_keys.get(key, {}).get("units"):
                    continue  # The instrument file tells its samples or its unit.
            found = self._in_events(field, stream, key)
            if found is not None:
                yield found
        if field.start_key is not None and self.run.start.get(field.start_key) is not None:
            raw, source = self.run.start[field.start_key], f"start:{field.start_key}"
            found = self.value(field, raw, source + self._origin(field), defined=field.start_unit)
            yield replace(found, path=source, unit=field.start_unit or field.unit)

    def in_stream(self, name: str, stream: str) -> NDArray[np.float64] | None:
        """Return the numbers of a field in the events of a stream or in its configuration; None if not found."""
        field, key = self.fields[name], self._event_key(self.fields[name])
        found = None if key is None else self._in_events(field, stream, key)
        place = None if self.instrument is None else self.instrument.fields.get(name)
        if found is None and place is not None and (place.path or "").startswith("configuration:"):
            found = self._in_configuration(field, place, [self.run.streams[stream]])
        if found is not None and stream == self.frames_stream:
            found = self.per_frame(field, found)
        return None if found is None else np.ravel(found.value)

    def at_path(self, field: ScanField, place: FieldPlace) -> FoundValue | None:
        """Return the value at ``start:KEY.SUBKEY``, ``configuration:DEVICE.KEY`` or ``STREAM:DATA_KEY``."""
        container, _, key = (place.path or "").partition(":")
        if container == "start":
            return self._in_start(field, place, key)
        if container == "configuration":
            return self._in_configuration(field, place, self.run.streams.values())
        if field.name in ("darks", "flats"):
            return FoundValue(place.path, str(place.path), path=place.path)
        if field.name == "frames":
            return FoundValue(key, str(place.path), path=place.path) if container in self.run.streams else None
        return self._in_events(field, container, key, place.unit)

    def places_in_scan(self, field: ScanField) -> list[str]:
        """Return the field's data keys and its key in the start document."""
        key = self._event_key(field)
        searched = [f"event data key {self.frames_stream}:{key}"] if key else []
        searched += [f"static:{field.static_key}"] if field.static_key else []
        return searched + ([f"start:{field.start_key}"] if field.start_key else [])

    def stored_values(self) -> Iterator[StoredValue]:
        """Return the data keys and configurations of all streams, and the start document's numbers and words."""
        for name, stream in self.run.streams.items():
            for key, described in stream.data_keys.items():
                shape = (stream.events or 1, *(int(n or 1) for n in described.get("shape") or ()))
                yield _described(f"{name}:{key}", described, shape)
            for device, configuration in stream.configuration.items():
                data = configuration.get("data", {})
                for key, described in configuration.get("data_keys", {}).items():
                    value = data.get(key) if isinstance(data.get(key), (int, float, str)) else None
                    yield _described(f"configuration:{device}.{key}", described, (), value)
        yield from _of_document("start:", self.run.start)

    def how_to_record(self, field: ScanField) -> str:
        """Return the key of the start document or of the events."""
        if field.start_key is not None:
            return f"record {field.start_key} in the start document"
        return f"record {field.event_key} in the events" if field.event_key else ""

    def _event_key(self, field: ScanField) -> str | None:
        named = None if field.event_key_from is None else self.run.start.get(field.event_key_from)
        return field.event_key if named is None else str(named)

    def _origin(self, field: ScanField) -> str:
        """Return the value's source in the interchange file, for a run that was ingested from one."""
        origin = self.run.start.get("sources", {}).get(field.name)
        return f", from {origin}" if origin else ""

    def _in_events(self, field: ScanField, stream: str, key: str, unit: str | None = None) -> FoundValue | None:
        found = self.run.streams.get(stream)
        raw = None if found is None else found.read(key)
        if found is None or raw is None:
            return None
        source, written = f"{stream}:{key}", unit or found.data_keys.get(key, {}).get("units")
        self.check_unit(field, written, source)
        place: PlaceKind = "baseline" if stream == "baseline" else "rows"
        origin = self._origin(field) if stream == self.frames_stream and key == self._event_key(field) else ""
        return replace(self.value(field, raw, source + origin, place=place, written=written), path=source, unit=written)

    def _in_start(self, field: ScanField, place: FieldPlace, path: str) -> FoundValue | None:
        found: Any = self.run.start
        for key in path.split("."):
            if not isinstance(found, Mapping) or key not in found:
                return None
            found = found[key]
        self.check_unit(field, place.unit, str(place.path))
        return replace(self.value(field, found, str(place.path), written=place.unit), path=place.path, unit=place.unit)

    def _in_configuration(
        self, field: ScanField, place: FieldPlace, streams: Iterable[EventStream]
    ) -> FoundValue | None:
        device, _, signal = str(place.path).partition(":")[2].partition(".")
        for stream in streams:
            configuration = stream.configuration.get(device, {})
            for candidate in (signal, f"{device}-{signal}", f"{device}_{signal}"):
                if candidate in configuration.get("data", {}):
                    raw, source = configuration["data"][candidate], f"configuration:{device}.{candidate}"
                    written = place.unit or configuration.get("data_keys", {}).get(candidate, {}).get("units")
                    self.check_unit(field, written, source)
                    return replace(self.value(field, raw, source, written=written), path=source, unit=written)
        return None


def _described(
    path: str, described: Mapping[str, Any], shape: tuple[int, ...], value: float | str | None = None
) -> StoredValue:
    """Return a data key by its description in a descriptor."""
    kind = "U" if described.get("dtype") == "string" else "f"
    return StoredValue(path, shape, kind, described.get("units") or "", value)


def _of_document(path: str, document: Mapping[str, Any]) -> Iterator[StoredValue]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _of_document(f"{path}{key}.", value)
        elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
            yield StoredValue(f"{path}{key}", (), "U" if isinstance(value, str) else "f", value=value)
