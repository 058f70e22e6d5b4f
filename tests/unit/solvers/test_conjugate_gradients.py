"""The end game: it goes down with every step, faster than straight downhill, within the bounds."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from small_scan import hologram_scan, rebuild

from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import Scales, Unknowns, load_views
from bluesky_multislice.solvers.conjugate_gradients import ConjugateGradients


def prepared(**recipe):
    """Unknowns at vacuum, all frames, and the settings."""
    scan = hologram_scan()
    plan = make_plan(Recipe(ranks=1, **recipe), scan)
    model = plan.forward_model(scan.geometry)
    unknowns = Unknowns(model, torch.ones(1, *model.window, dtype=torch.complex64), plan.fit, torch.device("cpu"))
    return unknowns, load_views(scan, np.arange(8), scale=1.0, device=torch.device("cpu")), plan.fit


def descent(steps, *, straight=False, **recipe):
    """The misfit and regularisers before every step, and the unknowns after the last."""
    unknowns, frames, settings = prepared(**recipe)
    with join_mesh("cpu") as mesh:
        way = ConjugateGradients(unknowns, frames, torch.tensor(1.0), 0.0, mesh)
        losses = []
        for _ in range(steps):
            if straight:
                way = ConjugateGradients(unknowns, frames, torch.tensor(1.0), 0.0, mesh)
            terms = settings.priors.penalty(Scales(settings.object_step_rad)).values(unknowns.object.detach())
            losses.append(way.step() + sum(terms.values()))
    return losses, unknowns


@pytest.mark.parametrize("smoothing", [0.0, 0.001])
def test_every_step_goes_down(smoothing):
    losses, _ = descent(8, total_variation=smoothing)
    assert all(after < before for before, after in pairwise(losses))


def test_conjugate_directions_lead_further_down_than_the_steepest():
    conjugate, steepest = (descent(8, straight=straight, total_variation=0.0)[0] for straight in (False, True))
    assert conjugate[1] == pytest.approx(steepest[1])
    assert conjugate[-1] < 0.75 * steepest[-1]  # 0.70 was measured


def test_bounds_hold_and_what_is_not_fitted_stays():
    _, unknowns = descent(3, absorption=False)
    assert float(unknowns.delta.detach().min()) == 0
    assert float(unknowns.delta.detach().max()) > 0
    assert not unknowns.beta.detach().any()
    assert not any(gradient.any() for gradient in unknowns.gradients())


def test_polish_comes_after_the_epochs():
    plain, polished = (rebuild(hologram_scan(), epochs=3, polish=number, total_variation=0.0) for number in (0, 3))
    assert [epoch.loss for epoch in polished.history[:3]] == [epoch.loss for epoch in plain.history]
    assert len(polished.history) == 6
    assert polished.r_factor < plain.r_factor
