"""Techniques by name: this package's, one from another package, and what a document says of adding one."""

import inspect
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from installed_package import installed
from small_scan import blank, hologram_geometry, hologram_scan, rebuild

from bluesky_multislice.choices import TECHNIQUES_GROUP
from bluesky_multislice.errors import MultisliceError, RecipeError, ScanError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.models import technique_of, techniques
from bluesky_multislice.models.techniques import microscopy
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe, ScanValues, make_recipe, scan_fields

DOCUMENT = Path(__file__).parents[4] / "docs/adding-a-technique.md"
FACILITY = """
from dataclasses import replace

import torch

from bluesky_multislice.measurement import ScanField
from bluesky_multislice.models.techniques.holography import HOLOGRAPHY


def darkened(geometry, fy, fx):
    return torch.full((len(fy), len(fx)), geometry.values["darkness"], dtype=torch.complex128)


FILTERED = replace(
    HOLOGRAPHY,
    name="filtered",
    optics=darkened,
    fields=(ScanField("darkness", None, "instrument_1/filter_1/darkness", "Amplitude that the filter lets through."),),
)
"""


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers a technique of its own."""
    offer = {
        "module": "facility_technique",
        "group": TECHNIQUES_GROUP,
        "points": {"filtered": "facility_technique:FILTERED"},
    }
    with installed(tmp_path, monkeypatch, techniques, source=FACILITY, **offer):
        yield


def test_the_document_shows_the_whole_file():
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    shown, written = ("\n".join(blocks), inspect.getsource(microscopy))
    assert [line for line in shown.splitlines() if line] == [line for line in written.splitlines() if line]


def test_a_technique_of_another_package_goes_all_the_way(facility, tmp_path):
    assert "filtered" in techniques()
    assert scan_fields()["darkness"].unit is None
    assert "filtered" in str(Recipe.model_json_schema())
    recipe = make_recipe({"scan": {"technique": "filtered", "values": {"darkness": 0.5}}}, origin="here")
    write_scan(tmp_path / "scan.cxi", hologram_scan())
    scan = read_scan(tmp_path / "scan.cxi", values=recipe.scan)
    assert scan.geometry.values == {"darkness": 0.5}
    assert scan.sources["darkness"] == "recipe scan.values.darkness"
    write_scan(tmp_path / "again.cxi", scan)
    again = read_scan(tmp_path / "again.cxi")
    assert (again.geometry.technique, again.geometry.values) == ("filtered", {"darkness": 0.5})
    # The filter takes three quarters of the light, so the fit starts from frames four times too bright.
    clear = rebuild(hologram_scan(), epochs=1).history[0].loss
    assert rebuild(again, epochs=1).history[0].loss > 10 * clear


def test_its_number_must_be_somewhere(facility, tmp_path):
    write_scan(tmp_path / "scan.cxi", hologram_scan())
    with pytest.raises(ScanError, match=r"needs darkness.*recipe scan\.values\.darkness.*filter_1/darkness"):
        read_scan(tmp_path / "scan.cxi", values=ScanValues(technique="filtered"))
    geometry = replace(hologram_geometry(), technique="filtered")
    with pytest.raises(ScanError, match="no darkness"):
        technique_of(geometry)


def test_a_technique_that_nobody_offers_is_refused():
    with pytest.raises(RecipeError, match=r"scan\.technique.*ptychography, holography, microscopy"):
        make_recipe({"scan": {"technique": "filtered"}}, origin="here")
    with pytest.raises(MultisliceError, match="'filtered'"):
        make_plan(Recipe(), blank(replace(hologram_geometry(), technique="filtered")))


def test_a_lens_belongs_to_its_technique():
    geometry = hologram_geometry()
    aperture = {"numerical_aperture": 0.1}
    imaged = replace(geometry.detector, imaged=True)
    far_field = replace(imaged, regime="far_field")
    for wrong, rule in (
        (replace(geometry, technique="microscopy", values=aperture), "microscopy works with a lens"),
        (replace(geometry, detector=imaged), "holography works without a lens"),
        (replace(geometry, technique="microscopy", detector=far_field, values=aperture), "in the near field"),
    ):
        with pytest.raises(ScanError, match=rule):
            technique_of(wrong)


def test_only_an_image_may_lie_before_the_sample():
    geometry = hologram_geometry()
    imaged = replace(geometry.detector, imaged=True)
    before = replace(geometry, detector=imaged, distance_m=-geometry.distance_m)
    np.testing.assert_array_equal(before.effective_distance_m, -geometry.distance_m)
    with pytest.raises(ScanError, match="distance must be positive"):
        replace(before, detector=geometry.detector)
