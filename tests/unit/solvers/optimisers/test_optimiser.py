"""The object's optimiser: Nesterov's momentum against its formula, its step from the data, and Adam's floor."""

import numpy as np
import pytest
import torch

from bluesky_multislice.solvers import DescentSettings, ObjectOptimiser, Schedule
from bluesky_multislice.solvers.refinement import ProbeOptimiser


def optimiser(volume, **settings):
    relative_step = settings.pop("relative_step", lambda _: 1.0)
    steps = DescentSettings(**{"method": "nesterov", "adam_step": 0.05, **settings})
    return ObjectOptimiser(volume, steps, relative_step)


def moved(gradients, *, way=None, weight=1.0, **settings):
    """Where gradients, one after the other, take a volume that starts at 0."""
    volume = torch.zeros(len(gradients[0]), requires_grad=True)
    moving = optimiser(volume, **settings)
    if way is not None:
        moving.start(way, torch.tensor(weight))
    for gradient in gradients:
        volume.grad = torch.tensor(gradient)
        moving.step()
        assert not volume.grad.any()
    return volume.detach().numpy()


@pytest.mark.parametrize("momentum", [0.95, 0.5])
def test_momentum_is_nesterovs(momentum):
    gradients = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    place, velocity = np.zeros(3), np.zeros(3)
    for gradient in gradients:
        velocity = momentum * velocity + gradient
        place -= 0.2 * 7.0 * 2.0 * (gradient + momentum * velocity)
    found = moved(gradients.tolist(), way=7.0, factor=2.0, momentum=momentum)
    np.testing.assert_allclose(found, place, rtol=1e-5)


def test_the_weight_is_on_every_gradient():
    gradients = [[1.0, 1.0], [2.0, -1.0]]
    plain, weighted = (moved(gradients, way=1.0, weight=weight) for weight in ([1.0, 1.0], [1.0, 3.0]))
    np.testing.assert_allclose(weighted, plain * [1, 3], rtol=1e-6)


def test_descent_waits_for_its_step_and_adam_does_not():
    assert optimiser(torch.zeros(2)).needs_first_step
    assert not optimiser(torch.zeros(2), method="adam").needs_first_step
    np.testing.assert_array_equal(moved([[1.0, 2.0]]), 0)


def test_descent_on_a_parabola_reaches_the_bottom_faster_than_without_momentum():
    stiffness = torch.tensor([1.0, 0.01])
    volume = torch.ones(2, requires_grad=True)
    moving = optimiser(volume)
    moving.start(1.0, torch.tensor(1.0))
    for _ in range(200):
        volume.grad = (stiffness * volume).detach()
        moving.step()
    assert float(volume.detach().abs().max()) < 0.01 < (1 - 0.2 * 0.01) ** 200


@pytest.mark.parametrize("name", ["nesterov", "adam"])
def test_steps_follow_the_schedule(name):
    volume = torch.zeros(1, requires_grad=True)
    moving = optimiser(volume, method=name, relative_step=lambda epochs: 1.0 if epochs == 0 else 0.0)
    moving.start(1.0, torch.tensor(1.0))
    for _ in range(2):
        volume.grad = torch.ones(1)
        moving.step()
        after = volume.detach().clone()
        moving.end_epoch()
    volume.grad = torch.ones(1)
    moving.step()
    torch.testing.assert_close(volume.detach(), after)


def test_adams_floor_keeps_still_what_has_little_gradient():
    free, floored = (np.abs(moved([[1.0, 1e-6]], method="adam", adam_floor=floor)) for floor in (0.0, 0.02))
    assert free[1] / free[0] == pytest.approx(1, rel=1e-3)
    assert floored[1] / floored[0] < 1e-3


def test_weighted_descent_moves_bright_and_dim_pixels_alike_and_dark_ones_little():
    light = torch.tensor([[10.0, 5.0, 0.0]])
    volume = torch.zeros((2, 3, 1, 3), requires_grad=True)
    moving = optimiser(volume, method="weighted")
    volume.grad = light.expand(2, 3, 1, 3).clone() * 0.1
    volume.grad[..., 2] = 0.1
    assert not moving.needs_first_step
    moving.precondition(light)
    moving.step()
    moved_by = -volume.detach()[0, 0, 0]
    # Momentum 0.8 starts with 0.2 of the way and Nesterov's look ahead; three planes share a radian.
    np.testing.assert_allclose(moved_by, 0.2 * 1.8 * 3 * np.array([0.1, 0.5 / 5.5, 0.1 / 1.0]), rtol=1e-5)


def test_the_weighted_probe_rests_for_an_epoch_and_then_moves_by_its_curvature():
    parts = torch.full((1, 2, 2, 2), 2.0, requires_grad=True)
    probe = ProbeOptimiser(
        parts, weighted=True, step=1.0, schedule=Schedule(1, 1.0, 4.0), relative_step=lambda epochs: 1.0
    )
    light = 4.0
    places = []
    for _ in range(2):
        parts.grad = torch.full_like(parts, 0.01)
        probe.precondition(light)
        probe.step()
        places.append(parts.detach().clone())
        probe.end_epoch()
    np.testing.assert_array_equal(places[0], 2.0)
    np.testing.assert_allclose(parts.detach(), 2.0 - 0.2 * 1.82 * 0.01 * 32 / light, rtol=1e-6)


def test_weighted_descent_remembers_more_with_each_epoch_also_after_it_was_kept():
    def final_move(moving, volume):
        moves = []
        for _ in range(2):
            before = volume.detach().clone()
            volume.grad = torch.ones_like(volume)
            moving.step()
            moves.append(float((before - volume.detach()).max()))
        return moves[1] / moves[0]

    first, kept, later = (torch.zeros((1, 1, 1, 1), requires_grad=True) for _ in range(3))
    fresh = optimiser(first, method="weighted")
    old = optimiser(kept, method="weighted")
    for _ in range(4):
        old.end_epoch()
    loaded = optimiser(later, method="weighted")
    loaded.load(old.state())
    # Nesterov's second move over the first, (1 + m + m²) / (1 + m).
    for moving, volume, momentum in ((fresh, first, 0.8), (old, kept, 0.88), (loaded, later, 0.88)):
        assert final_move(moving, volume) == pytest.approx((1 + momentum + momentum**2) / (1 + momentum), rel=1e-5)
