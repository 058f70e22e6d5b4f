"""Bounds: the nearest volume within them, for volumes whose answer is known."""

import torch

from bluesky_multislice.solvers import Bounds, apply_bounds


def test_bounds_keep_beta_between_two_multiples_of_delta():
    random = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    volume, least, most = random.clone(), 0.3, 0.8
    apply_bounds(volume, Bounds(positivity=False, least=least, most=most))
    (delta, beta), matter = volume, random[0] > 0
    assert ((least * delta - 1e-12 <= beta) & (beta <= most * delta + 1e-12))[matter].all()
    torch.testing.assert_close(volume[:, ~matter], torch.stack([random[0, ~matter], torch.zeros_like(beta[~matter])]))
    # No other place within the bounds is nearer: along each of them, and inside.
    moved = (volume - random).square().sum(0).sqrt()
    for ratio in torch.linspace(least, most, 21, dtype=torch.float64):
        along = torch.linspace(0, 4, 2001, dtype=torch.float64)
        others = torch.stack([along, ratio * along])[:, None] - random[:, matter, None]
        assert (moved[matter] <= others.square().sum(0).sqrt().min(1).values + 1e-9).all()


def test_bounds_and_positivity_together_lead_to_the_nearest_pair():
    random = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    volume, least, most = random.clone(), 0.3, 0.8
    apply_bounds(volume, Bounds(positivity=True, least=least, most=most))
    delta, beta = volume
    assert (delta >= 0).all()
    assert ((least * delta - 1e-12 <= beta) & (beta <= most * delta + 1e-12)).all()
    moved = (volume - random).square().sum(0).sqrt()
    for ratio in torch.linspace(least, most, 21, dtype=torch.float64):
        along = torch.linspace(0, 4, 2001, dtype=torch.float64)
        others = torch.stack([along, ratio * along])[:, None, None, None] - random[..., None]
        assert (moved <= others.square().sum(0).sqrt().min(-1).values + 1e-9).all()


def test_a_fixed_ratio_takes_what_both_parts_tell():
    volume = torch.tensor([[1.0, 0.5], [0.0, 0.75]], dtype=torch.float64).reshape(2, 1, 1, 2)
    apply_bounds(volume, Bounds(positivity=True, least=0.5, most=0.5))
    torch.testing.assert_close(volume.flatten(1), torch.tensor([[0.8, 0.7], [0.4, 0.35]], dtype=torch.float64))


def test_positivity_and_support_take_out_what_may_not_be():
    volume = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]).reshape(2, 1, 1, 3)
    support = torch.tensor([True, True, False])
    apply_bounds(volume, Bounds(positivity=True, support=support))
    torch.testing.assert_close(volume.flatten(1), torch.tensor([[1.0, 0.0, 0.0]] * 2))
    free = torch.tensor([[-1.0], [2.0]]).reshape(2, 1, 1, 1)
    apply_bounds(free, Bounds(positivity=False))
    torch.testing.assert_close(free.flatten(), torch.tensor([-1.0, 2.0]))
