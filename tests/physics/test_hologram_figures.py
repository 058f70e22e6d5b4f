"""Holograms of a thick phantom by an independent, finer simulation: the plan beside plain Adam and projection."""

import pytest
from small_scan import rebuild, relative_error
from thick_hologram import Hologram

PHANTOM = Hologram(size=32, angles=28, wavelength=1.0, distance=60, delta=8e-3, bodies=40, radii=(0.06, 0.16))
PLAIN = {"optimiser": "adam", "total_variation": 0.0, "start": "empty"}


@pytest.fixture(scope="module")
def solutions():
    scan = PHANTOM.scan(PHANTOM.frames())
    recipes = {"planned": {}, "plain": PLAIN, "projection": {"propagation": "projection"}}
    return {name: rebuild(scan, **recipe) for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def errors(solutions):
    truth = PHANTOM.truth()
    return {name: relative_error(solution.delta, truth) for name, solution in solutions.items()}


def test_the_planned_fit_is_nearer_to_the_truth_than_plain_adam_and_projection(errors):
    assert errors["planned"] < 0.19  # 0.152 was measured, 0.305 for plain Adam and 0.229 for projection
    assert errors["planned"] < 0.7 * errors["plain"]
    assert errors["planned"] < 0.8 * errors["projection"]


def test_it_explains_frames_held_back_five_times_as_well_as_projection(solutions):
    planned, projection = (
        solutions[name].history[solutions[name].best_epoch - 1].held_back_loss for name in ("planned", "projection")
    )
    assert planned < 0.2 * projection  # 0.15 was measured
