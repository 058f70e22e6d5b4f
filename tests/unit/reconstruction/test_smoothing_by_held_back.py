"""Frames held back choose the weight of total variation, not the truth."""

import numpy as np
import pytest
from small_scan import ball, hologram_scan, relative_error

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct

WEIGHT = 0.003


def reconstructed(scan, **recipe):
    chosen = {"ranks": 1, "device": "cpu", "held_back_every": 4, "epochs": 12, "total_variation": WEIGHT, **recipe}
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, make_plan(Recipe(**chosen), scan), mesh)


@pytest.fixture(scope="module")
def noisy():
    scan = hologram_scan(angles=16)
    counts = np.random.default_rng(0).poisson(200 * scan.frames.read(np.arange(16)))
    return Scan(scan.geometry, Frames(counts.astype(np.float32)))


def test_the_weight_that_explains_frames_held_back_is_taken(noisy):
    weights = (WEIGHT / 3, WEIGHT, 3 * WEIGHT)
    result = reconstructed(noisy, smoothing_by_held_back=True)
    assert result.plan.smoothings == ()
    least = {
        weight: min(e.held_back_loss for e in reconstructed(noisy, total_variation=weight, epochs=4).solution.history)
        for weight in weights
    }
    assert result.plan.fit.priors.weight_of("total_variation") == min(least, key=least.get)
    assert len(result.solution.history) <= 12


def test_noise_asks_for_more_smoothing(noisy):
    weights = [
        reconstructed(scan, smoothing_by_held_back=True).plan.fit.priors.weight_of("total_variation")
        for scan in (noisy, hologram_scan(angles=16))
    ]
    assert weights[0] > weights[1]


def test_without_it_the_planned_weight_is_taken(noisy):
    result = reconstructed(noisy, epochs=1)
    assert result.plan.fit.priors.weight_of("total_variation") == WEIGHT
    assert relative_error(result.solution.delta, ball()) < 1


@pytest.mark.parametrize("without", [{"total_variation": 0.0}, {"held_back_every": 0}])
def test_it_needs_a_weight_and_frames_to_judge(without):
    with pytest.raises(PlanError, match="held_back"):
        make_plan(Recipe(ranks=1, smoothing_by_held_back=True, **without), hologram_scan(angles=16))
