"""The table of refined quantities."""

from typing import get_args

import pytest

from bluesky_multislice.measurement import REFINED_QUANTITIES, Quantity
from bluesky_multislice.recipe import Schedules
from bluesky_multislice.solvers import RefinementSettings


def test_every_quantity_has_a_row():
    assert tuple(REFINED_QUANTITIES) == get_args(Quantity)


@pytest.mark.parametrize("name", get_args(Quantity))
def test_the_form_tells_the_bound_that_the_fit_uses(name):
    row, text = REFINED_QUANTITIES[name], Schedules.model_fields[name].description or ""
    assert f"Bound {row.measured}" in text
    assert f"{row.bound:g}" in text or row.shares_bound
    assert RefinementSettings(furthest_pixels=3).schedule_of(name).bound == (3 if row.shares_bound else row.bound)
