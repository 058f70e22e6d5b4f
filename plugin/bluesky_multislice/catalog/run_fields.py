"""Looks up the values of a scan in recipe, events, start document and instrument file; records each value's source."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.catalog.run_documents import EventStream, RunDocuments
from bluesky_multislice.errors import ScanError
from bluesky_multislice.models import technique_fields
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues, convert, scan_fields

RECIPE_FIELDS: dict[str, tuple[str, float]] = {
    "technique": ("technique", 1.0),
    "regime": ("regime", 1.0),
    "energy": ("energy_ev", 1.0),
    "distance": ("distance_m", 1.0),
    "pixel_size": ("pixel_size_um", 1e-6),
    "focus_distance": ("focus_distance_mm", 1e-3),
    "source_size": ("source_size_um", 1e-6),
    "divergence": ("divergence_urad", 1e-6),
    "orientation": ("orientation", 1.0),
    "saturation": ("saturation", 1.0),
    "angle": ("angle_deg", np.pi / 180),
}
"""Field → name in the recipe's ``[scan]`` table and the factor to the unit of ``scan_fields``."""

START_FIELDS: dict[str, tuple[str, float]] = {
    "technique": ("technique", 1.0),
    "regime": ("detector_regime", 1.0),
    "energy": ("energy_ev", 1.0),
    "distance": ("detector_distance_m", 1.0),
    "pixel_size": ("detector_pixel_size_m", 1.0),
    "focus_distance": ("focus_distance_m", 1.0),
    "source_size": ("source_size_m", 1.0),
    "divergence": ("divergence_rad", 1.0),
    "orientation": ("detector_orientation", 1.0),
    "saturation": ("detector_saturation", 1.0),
    "angle": ("rotation_angle_deg", np.pi / 180),
    "frames": ("detector_image", 1.0),
    "exposure": ("exposure_time_s", 1.0),
}
"""Field → key of the start document and the factor to the unit of ``scan_fields``."""

EVENT_FIELDS: dict[str, tuple[str, str]] = {
    "angle": ("angle_key", "rotation_angle"),
    "position_x": ("position_x_key", "sample_x"),
    "position_y": ("position_y_key", "sample_y"),
    "distance": ("distance_key", "detector_distance"),
    "focus_distance": ("focus_distance_key", "focus_distance"),
    "exposure": ("exposure_key", "exposure_time"),
}
"""Field → key of the start document that names the data key in the events, and the default data key."""


@dataclass
class RunLookup:
    """Looks up values of one run.

    Attributes:
        run: the run.
        values: the recipe's values.
        instrument: the instrument file; None if there is none.
        sources: field → source of its value; every successful look-up adds an entry.
    """

    run: RunDocuments
    values: ScanValues
    instrument: Instrument | None
    sources: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> Any | None:
        """Return a value (text, number or array) in the unit of ``scan_fields``; None if it is not found.

        Raises:
            ScanError: a value was found and is not of the right kind.
        """
        for search in (self._in_recipe, self._in_events, self._in_start, self._in_instrument):
            source, value, factor = search(name)
            if value is not None:
                self.sources[name] = source + self._origin(name, source)
                return value if scan_fields()[name] is None else self._numbers(name, value) * factor
        return None

    def in_stream(self, name: str, stream: str) -> NDArray[np.float64] | None:
        """Return the numbers of a field in the events of a stream or in its configuration; None if not found."""
        found, place = self.run.streams[stream], None if self.instrument is None else self.instrument.fields.get(name)
        value, factor = None, 1.0
        if name in EVENT_FIELDS:
            _, value, factor = self._in_stream(stream, self._event_key(name), name, None)
        if value is None and place is not None and (place.path or "").startswith("configuration:"):
            _, value, factor = self._in_configuration(name, place, str(place.path).partition(":")[2], [found])
        return None if value is None else np.ravel(np.asarray(value, np.float64) * factor)

    def require(self, name: str) -> Any:
        """Like ``find``, but raise a ScanError that lists all searched places if the value is missing."""
        value = self.find(name)
        if value is None:
            raise self.missing(name)
        return value

    def missing(self, name: str) -> ScanError:
        """Return the error for a field that was not found."""
        unit = scan_fields()[name]
        return ScanError(
            f"A scan needs {name.replace('_', ' ')}.",
            got=f"run {self.run.uid} without it; searched {', '.join(self.places(name))}.",
            remedy=self._remedy(name, "" if unit is None else f" ({unit})"),
        )

    def places(self, name: str) -> list[str]:
        """Return all places that are searched for a field, in order."""
        searched = []
        if name in technique_fields():
            searched += [f"recipe scan.values.{name}", f"start:{name}"]
        if name in RECIPE_FIELDS:
            searched.append(f"recipe scan.{RECIPE_FIELDS[name][0]}")
        if name in EVENT_FIELDS:
            searched.append(f"event data key primary:{self._event_key(name)}")
        if name in START_FIELDS:
            searched.append(f"start:{START_FIELDS[name][0]}")
        if self.instrument is None:
            return [*searched, "instrument file (none given)"]
        place = self.instrument.fields.get(name)
        detail = f"no field {name}" if place is None else place.path or "value"
        return [*searched, f"instrument file {self.instrument.name} ({detail})"]

    def _origin(self, name: str, source: str) -> str:
        """Return the value's source in the interchange file, for a run that was ingested from one."""
        origins = self.run.start.get("sources", {})
        origin = origins.get("positions" if name.startswith("position") else name)
        return f", from {origin}" if origin and source.startswith(("start:", "primary:")) else ""

    def _remedy(self, name: str, unit: str) -> str:
        remedies = []
        if name in technique_fields():
            remedies.append(f"record {name} in the start document, or set it in the recipe's [scan.values] table")
        if name in START_FIELDS:
            remedies.append(f"record {START_FIELDS[name][0]} in the start document")
        elif name in EVENT_FIELDS:
            remedies.append(f"record {EVENT_FIELDS[name][1]} in the events")
        if name in RECIPE_FIELDS:
            remedies.append(f"set {RECIPE_FIELDS[name][0]} in the recipe's [scan] table")
        remedies.append(f"give the path or the value of {name}{unit} in an instrument file")
        return ", or ".join(remedies) + "."

    def _event_key(self, name: str) -> str:
        key, default = EVENT_FIELDS[name]
        return str(self.run.start.get(key, default))

    def _in_recipe(self, name: str) -> tuple[str, Any, float]:
        if name in technique_fields():
            return f"recipe scan.values.{name}", self.values.values.get(name), 1.0
        key, factor = RECIPE_FIELDS.get(name, ("", 1.0))
        return f"recipe scan.{key}", getattr(self.values, key, None), factor

    def _in_events(self, name: str) -> tuple[str, Any, float]:
        if name not in EVENT_FIELDS or "primary" not in self.run.streams:
            return "", None, 1.0
        return self._in_stream("primary", self._event_key(name), name, None)

    def _in_start(self, name: str) -> tuple[str, Any, float]:
        key, factor = START_FIELDS.get(name, (name if name in technique_fields() else "", 1.0))
        return f"start:{key}", self.run.start.get(key), factor

    def _in_instrument(self, name: str) -> tuple[str, Any, float]:
        place = None if self.instrument is None else self.instrument.fields.get(name)
        if self.instrument is None or place is None:
            return "", None, 1.0
        if place.path is None:
            source, value, factor = "value", place.value, self._factor(name, place.unit, f"value of {name}")
        else:
            source, value, factor = self._at_path(name, place, place.path)
        return f"instrument file {self.instrument.name}: {source}", value, factor

    def _at_path(self, name: str, place: FieldPlace, path: str) -> tuple[str, Any, float]:
        container, _, key = path.partition(":")
        if container == "start":
            value = _nested_value(self.run.start, key)
            return path, value, 1.0 if value is None else self._factor(name, place.unit, path)
        if container == "configuration":
            return self._in_configuration(name, place, key, list(self.run.streams.values()))
        if name in ("darks", "flats"):
            return path, path, 1.0
        if scan_fields()[name] is None and name == "frames":
            return path, key if container == "primary" else None, 1.0
        return self._in_stream(container, key, name, place.unit)

    def _in_stream(self, stream: str, key: str, name: str, unit: str | None) -> tuple[str, Any, float]:
        path, found = f"{stream}:{key}", self.run.streams.get(stream)
        value = None if found is None else found.read(key)
        if found is None or value is None:
            return path, None, 1.0
        declared = found.data_keys.get(key, {}).get("units")
        return path, value, self._factor(name, unit or declared, path)

    def _in_configuration(
        self, name: str, place: FieldPlace, key: str, streams: list[EventStream]
    ) -> tuple[str, Any, float]:
        device, _, signal = key.partition(".")
        for stream in streams:
            configuration = stream.configuration.get(device, {})
            for candidate in (signal, f"{device}-{signal}", f"{device}_{signal}"):
                if candidate in configuration.get("data", {}):
                    declared = configuration.get("data_keys", {}).get(candidate, {}).get("units")
                    path = f"configuration:{device}.{candidate}"
                    return path, configuration["data"][candidate], self._factor(name, place.unit or declared, path)
        return f"configuration:{key}", None, 1.0

    def _factor(self, name: str, unit: str | None, path: str) -> float:
        """Return the factor from ``unit`` to the field's unit."""
        field_unit = scan_fields()[name]
        if field_unit is None:
            return 1.0
        if not unit:
            raise ScanError(
                "A number needs a unit.",
                got=f"{name.replace('_', ' ')} at {path} without a unit.",
                remedy=f"give its unit in the instrument file, such as {field_unit}, or in the device's describe().",
            )
        return convert(1.0, unit, field_unit)

    def _numbers(self, name: str, value: Any) -> NDArray[np.float64]:
        try:
            return np.asarray(value, np.float64)
        except (TypeError, ValueError) as error:
            raise ScanError(
                f"The {name.replace('_', ' ')} must be a number.",
                got=f"{value!r} from {self.sources[name]}.",
                remedy="correct it there, or set it in the recipe's [scan] table.",
            ) from error


def _nested_value(document: Mapping[str, Any], path: str) -> Any | None:
    found: Any = document
    for key in path.split("."):
        if not isinstance(found, Mapping) or key not in found:
            return None
        found = found[key]
    return found
