"""Writes a starter instrument file from the inspection of a scan."""

import json
from collections.abc import Iterator

from bluesky_multislice.files.scan_inspection import FieldReport, ScanInspection
from bluesky_multislice.recipe import FieldPlace

_HEAD = """\
# Starter instrument file, from {name}.
# Order of search: the recipe's [scan] table, the scan itself, this file. Remove what every scan records itself.
# path: {path}
# unit: required unless the place has one. value: a fixed value, for what the instrument does not record.
name = "my beamline"
"""
_PATHS = {
    False: "/GROUP/DATASET of the scan file",
    True: "start:KEY.SUBKEY | baseline:DATA_KEY | primary:DATA_KEY | configuration:DEVICE.KEY",
}


def starter_instrument(inspection: ScanInspection) -> str:
    """Return an instrument file (TOML) with the places that were found; missing fields are comments.

    Args:
        inspection: the inspected scan.
    """
    of_run = any(report.place is not None and ":" in (report.place.path or "") for report in inspection.fields)
    head = _HEAD.format(name=json.dumps(inspection.name, ensure_ascii=False), path=_PATHS[of_run])
    return "\n".join([head, *(line for report in inspection.fields for line in _field_lines(report))])


def place_text(place: FieldPlace) -> str:
    """Return a place in one line of TOML, such as ``path = "/entry/energy", unit = "keV"``."""
    return ", ".join(_place_lines(place))


def _place_lines(place: FieldPlace) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in place.model_dump().items() if value is not None]


def _field_lines(report: FieldReport) -> Iterator[str]:
    field = report.field
    if report.place is not None and report.error is None:
        yield f"[fields.{field.name}]"
        yield from _place_lines(report.place)
        yield ""
        return
    if report.error is None and not report.suggestions:
        return
    if report.error is not None and not report.missing:
        yield f"# {field.label}: the recorded value cannot be used. Correct it there, or set it in the recipe.\n"
        return
    unit = f", {field.unit}" if field.unit else ""
    state = "needed" if report.error is not None else f"optional, {report.source}" if report.source else "optional"
    yield f"# {field.label}{unit} ({state})"
    yield f"# [fields.{field.name}]"
    places = [one.as_place(field) for one in report.suggestions] or [FieldPlace(path="…", unit=field.unit)]
    for place in places:
        yield from (f"# {line}" for line in _place_lines(place))
    yield ""


def _toml(value: float | str) -> str:
    return json.dumps(value, ensure_ascii=False)
