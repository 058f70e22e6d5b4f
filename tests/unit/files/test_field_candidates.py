"""Places that are suggested for a field that a scan does not record where it is searched."""

import pytest

from bluesky_multislice.files import StoredValue, suggest_places
from bluesky_multislice.recipe import scan_fields

STORED = (
    StoredValue("/facility/mono/energy", (), "f", "keV", 12.4),
    StoredValue("/facility/undulator/gap", (), "f", "mm", 9.0),
    StoredValue("/facility/mono/wavelength", (1,), "f", "angstrom", 1.0),
    StoredValue("/facility/storage_ring", (), "f", "GeV", 3.0),
    StoredValue("/facility/detector_z", (), "f", "mm", 500.0),
    StoredValue("/facility/theta", (20,), "f", "deg"),
    StoredValue("/facility/theta_once", (7,), "f", "deg"),
    StoredValue("/facility/samx", (20,), "f", "um"),
    StoredValue("/facility/positions", (20, 2), "f", "um"),
    StoredValue("/facility/energy_of_each_pixel", (8, 8), "f"),
    StoredValue("/facility/camera/data", (20, 8, 8), "u"),
    StoredValue("/facility/fast/eiger", (20, 8, 8), "u"),
    StoredValue("/facility/camera/bad_pixel_mask", (8, 8), "u"),
    StoredValue("/facility/camera/mask_of_another_camera", (9, 9), "u"),
    StoredValue("/facility/technique", (), "U", value="ptychography"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("energy", ["mono/energy", "mono/wavelength"]),
        ("distance", ["detector_z"]),
        ("focus_distance", []),
        ("angle", ["theta"]),
        ("position_x", ["samx", "positions"]),
        ("frames", ["camera/data", "fast/eiger"]),
        ("mask", ["camera/bad_pixel_mask"]),
        ("technique", ["technique"]),
    ],
)
def test_shape_unit_and_name_must_suit(name, expected):
    found = suggest_places(scan_fields()[name], STORED, views=20, frame=(8, 8), needed=True)
    assert [one.path.removeprefix("/facility/") for one in found] == expected


def test_a_unit_of_energy_suggests_only_an_energy_that_is_needed():
    stored = (StoredValue("/facility/dcm", (), "f", "keV", 12.4),)
    found = [suggest_places(scan_fields()["energy"], stored, views=20, frame=None, needed=needed) for needed in (0, 1)]
    assert found == [(), stored]


def test_a_place_without_a_unit_gets_that_of_the_field():
    place = StoredValue("start:mono", (), "f", value=12.4).as_place(scan_fields()["energy"])
    assert (place.path, place.unit) == ("start:mono", "eV")
