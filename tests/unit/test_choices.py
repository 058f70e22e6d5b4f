"""Choices by name: what a recipe offers is what the code implements."""

from typing import get_args

from bluesky_multislice.choices import FidelityName, Interpolation, Kernel, OptimiserName, OwnTechnique, Propagation
from bluesky_multislice.models import techniques
from bluesky_multislice.optics import PROPAGATIONS
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers.fidelity import FIDELITIES


def test_every_choice_is_implemented_and_every_implementation_is_a_choice():
    assert set(PROPAGATIONS) == set(get_args(Propagation))
    assert set(FIDELITIES) == set(get_args(FidelityName))
    assert set(techniques()) == set(get_args(OwnTechnique))


def test_the_form_offers_the_same_choices():
    properties = Recipe.model_json_schema()["properties"]
    for name, choices in (
        ("propagation", Propagation),
        ("interpolation", Interpolation),
        ("fidelity", FidelityName),
    ):
        assert tuple(properties[name]["enum"]) == get_args(choices)
    for name, choices in (("optimiser", OptimiserName), ("way_to_detector", Kernel)):
        assert tuple(properties[name]["anyOf"][0]["enum"]) == get_args(choices)
