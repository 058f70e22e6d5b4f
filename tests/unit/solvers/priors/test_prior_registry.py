"""Priors by name: this package's, and one from another package."""

import re
from pathlib import Path

import pytest
from installed_package import installed
from small_scan import hologram_scan, rebuild

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.recipe import make_recipe
from bluesky_multislice.solvers import make_prior
from bluesky_multislice.solvers.priors import prior_classes
from bluesky_multislice.solvers.priors.prior_registry import GROUP

DOCUMENT = Path(__file__).parents[4] / "docs/adding-a-prior.md"
FACILITY = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]


@pytest.fixture
def facility(tmp_path, monkeypatch):
    """A package is installed that offers a prior of its own."""
    offer = {"module": "facility_prior", "group": GROUP, "points": {"target": "facility_prior:Target"}}
    with installed(tmp_path, monkeypatch, prior_classes, source=FACILITY, **offer):
        yield


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
