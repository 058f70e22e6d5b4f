"""The starter instrument file is valid, whatever the places are called."""

import tomllib

from bluesky_multislice.files.scan_inspection import FieldReport, ScanInspection
from bluesky_multislice.files.starter_instrument import starter_instrument
from bluesky_multislice.recipe import FieldPlace, scan_fields


def test_names_with_commas_and_quotes_are_written_as_they_are():
    places = {"energy": FieldPlace(path='/entry/mono, "fine"', unit="keV"), "technique": FieldPlace(value="a, b")}
    reports = tuple(FieldReport(scan_fields()[name], place=place) for name, place in places.items())
    written = tomllib.loads(starter_instrument(ScanInspection("scan, 1.h5", reports)))
    assert {name: FieldPlace(**place) for name, place in written["fields"].items()} == places
