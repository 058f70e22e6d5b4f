"""The one table of scan fields: names, units, and the page that shows it."""

import runpy
from pathlib import Path

import pytest

from bluesky_multislice.measurement import SCAN_FIELDS
from bluesky_multislice.recipe import ScanValues, convert, scan_fields

DOCS = Path(__file__).parents[3] / "docs"


def test_the_page_shows_the_table():
    tables = runpy.run_path(str(DOCS / "scan_fields_table.py"))["tables"]()
    assert tables in (DOCS / "interchange.md").read_text(), "run python docs/scan_fields_table.py"


@pytest.mark.parametrize("field", SCAN_FIELDS.values(), ids=lambda field: field.name)
def test_a_field_is_consistent(field):
    if field.option is not None:
        assert field.option in ScanValues.model_fields
    for unit in (field.stored_unit, field.option_unit, field.start_unit):
        assert unit is None or convert(1.0, unit, field.unit) > 0
    assert (field.unit is None) or field.kind == "number"
    assert (field.event_key is not None) or (field.event_key_from is None)


def test_every_value_of_the_recipe_has_a_field():
    options = {field.option for field in SCAN_FIELDS.values()} - {None}
    no_fields = {"values", "frames_per_view", "allow_aborted", "mask", "mask_sense"}
    assert options == set(ScanValues.model_fields) - no_fields


def test_a_field_of_a_technique_is_searched_everywhere():
    aperture = scan_fields()["numerical_aperture"]
    assert (aperture.option, aperture.start_key) == ("values.numerical_aperture", "numerical_aperture")
    assert aperture.place == "instrument_1/lens_1/numerical_aperture"
