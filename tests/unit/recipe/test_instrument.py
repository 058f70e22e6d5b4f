import re

import pytest

from bluesky_multislice.errors import ScanError
from bluesky_multislice.recipe import convert, read_instrument, scan_fields

GOOD = """
name = "hall 3"
[fields.energy]
path = "baseline:mono_energy"
unit = "keV"
[fields.regime]
value = "far_field"
"""


@pytest.mark.parametrize(
    ("value", "unit", "to", "expected"),
    [
        (6.2, "keV", "eV", 6200.0),
        (35.0, "mm", "m", 0.035),
        (75.0, "um", "m", 75e-6),
        (75.0, "µm", "m", 75e-6),
        (180.0, "degree", "radian", 3.141592653589793),
        (180.0, "deg", "radian", 3.141592653589793),
        (180.0, "Degrees", "radian", 3.141592653589793),
        (1.0, "kev", "eV", 1000.0),
        (1.0, "Angstrom", "m", 1e-10),
        (1.602176634e-19, "J", "eV", 1.0),
    ],
)
def test_units_convert(value, unit, to, expected):
    assert convert(value, unit, to) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("unit", "to"),
    [
        ("mm", "eV"),
        ("furlongz", "m"),
        ("furlong", "m"),
        ("percent", "radian"),
        ("degree", "m"),
        ("m/", "m"),
        ("2 mm", "m"),
        ("m(", "m"),
    ],
)
def test_other_units_are_refused(unit, to):
    with pytest.raises(ScanError, match=f"converts to {to}.*{re.escape(unit)}"):
        convert(1.0, unit, to)


def test_every_unit_of_a_field_is_known():
    for unit in {field.unit for field in scan_fields().values()} - {None}:
        assert convert(1.0, unit, unit) == 1.0


def test_file_is_read(tmp_path):
    path = tmp_path / "hall.toml"
    path.write_text(GOOD)
    instrument = read_instrument(path)
    assert instrument.name == "hall 3"
    assert instrument.fields["energy"].path == "baseline:mono_energy"
    assert instrument.fields["energy"].unit == "keV"
    assert instrument.fields["regime"].value == "far_field"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[fields.colour]\nvalue = 1.0", "unknown fields colour"),
        ("[fields.energy]\nunit = 'eV'", "exactly one of path and value"),
        ("[fields.energy]\npath = 'start:e'\nvalue = 1.0", "exactly one of path and value"),
        ("[fields.energy]\nplace = 'start:e'", "place"),
        ("[fields.mask]\nvalue = 0", "mask: an array needs a path"),
        ("[fields.energy]\npath = 'baseline:th'\ncrystal = 'Si'", "unknown crystal 'Si'"),
        ("[fields.energy]\nvalue = 9\ncrystal = 'Si 111'", "need a path"),
        ("[fields.distance]\npath = 'baseline:th'\ncrystal = 'Si 111'", "crystal is only for energy"),
        ("[fields.energy]\npath = 'fly:th'\nsamples = 'mean'", "samples only for values per view"),
        ("[fields.angle]\npath = 'fly:th'\nsamples = 'interpolate'", "belong together"),
        ("[fields.angle]\npath = 'fly:th'\ntimes = 'fly:t'", "belong together"),
        ("frames_per_view = 'first'", "frames_per_view"),
        ("surname = 'x'", "surname"),
        ("[fields", "Expected"),
    ],
)
def test_wrong_file_is_refused(tmp_path, text, fault):
    path = tmp_path / "hall.toml"
    path.write_text(text)
    with pytest.raises(ScanError) as caught:
        read_instrument(path)
    assert fault in caught.value.got
    assert str(path) in caught.value.got


def test_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "hall.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ScanError, match="readable TOML"):
        read_instrument(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ScanError, match=r"absent\.toml"):
        read_instrument(tmp_path / "absent.toml")
