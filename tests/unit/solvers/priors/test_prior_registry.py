"""Priors by name: this package's, and one from another package."""

import re
import sys
from pathlib import Path

import pytest
from small_scan import hologram_scan, rebuild

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.recipe import make_recipe
from bluesky_multislice.solvers import make_prior
from bluesky_multislice.solvers.priors import prior_classes

DOCUMENT = Path(__file__).parents[4] / "docs/adding-a-prior.md"
FACILITY = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers a prior of its own."""
    (tmp_path / "facility_prior.py").write_text(FACILITY)
    about = tmp_path / "facility-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: facility\nVersion: 1.0\n")
    entry = about / "entry_points.txt"
    entry.write_text("[bluesky_multislice.priors]\ntarget = facility_prior:Target\n")
    monkeypatch.syspath_prepend(tmp_path)
    prior_classes.cache_clear()
    yield entry
    sys.modules.pop("facility_prior", None)
    prior_classes.cache_clear()


def test_a_prior_of_another_package_acts_in_a_fit(facility):
    recipe = make_recipe({"priors": {"target": {"weight": 0.1}}}, origin="here")
    free, drawn = (rebuild(hologram_scan(), priors=priors, start="empty") for priors in ({}, recipe.priors))
    assert float(drawn.delta.abs().mean()) < 0.8 * float(free.delta.abs().mean())
    assert drawn.penalties["target"] > 0
    assert "target" not in free.penalties


def test_a_prior_that_nobody_offers_is_refused():
    with pytest.raises(RecipeError, match=r"priors.*one of total_variation, l1, vacuum, smoothness_z"):
        make_recipe({"priors": {"target": {"weight": 1.0}}}, origin="here")


@pytest.mark.parametrize(
    ("parameters", "rule"),
    [
        ({"colour": 1.0}, "parameters of the prior target are weight, phase_rad"),
        ({"weight": -1.0}, "at least 0"),
        ({"phase_rad": float("nan")}, "finite"),
    ],
)
def test_parameters_out_of_range_are_refused(facility, parameters, rule):
    with pytest.raises(RecipeError, match=rule):
        make_prior("target", parameters)


def test_a_prior_with_options_of_its_own_has_no_second_place():
    with pytest.raises(RecipeError, match="l1 is an option of its own"):
        make_recipe({"priors": {"l1": {"weight": 1.0}}}, origin="here")


@pytest.mark.parametrize(
    ("offered", "rule"),
    [
        ("l1 = bluesky_multislice.solvers.priors.sparsity:Sparsity", "name of its own"),
        ("x = math:pi", "subclass of Prior"),
    ],
)
def test_an_entry_point_without_a_new_prior_is_refused(facility, offered, rule):
    facility.write_text(f"[bluesky_multislice.priors]\n{offered}\n")
    prior_classes.cache_clear()
    with pytest.raises(RecipeError, match=rule):
        prior_classes()
