"""Priors and their sum: what they must give for volumes whose answer is known."""

import math

import pytest
import torch

from bluesky_multislice.optics import with_y_last
from bluesky_multislice.solvers.priors import (
    Penalty,
    Prior,
    Priors,
    Scales,
    SmoothnessZ,
    Sparsity,
    TotalVariation,
    Vacuum,
    penalty,
)

FLOOR = 1e-4


def value(volume, *priors, step_rad=FLOOR, **scales):
    """The penalty of a volume as both δ and β."""
    both = torch.stack([volume, volume]) if volume.ndim == 3 else volume
    return sum(Penalty(priors, Scales(step_rad, **scales)).values(both).values())


def noise(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_constant_has_no_variation():
    assert value(torch.full((4, 5, 6), 3.0), TotalVariation(1.0)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_step_across_each_axis_has_its_height_times_its_area(axis):
    volume = torch.zeros(4, 4, 4, dtype=torch.float64)
    volume.narrow(axis, 2, 2).fill_(0.5)
    assert value(volume, TotalVariation(1.0)) == pytest.approx(0.5 * 16 / 64, rel=1e-3)


def test_variation_grows_in_proportion_to_the_volume():
    volume = noise(5, 5, 5)
    assert value(3 * volume, TotalVariation(1.0)) == pytest.approx(3 * value(volume, TotalVariation(1.0)), rel=1e-3)


def test_below_the_floor_variation_is_quadratic_and_so_differentiable():
    volume = noise(5, 5, 5) * 1e-3 * FLOOR
    assert value(2 * volume, TotalVariation(1.0)) == pytest.approx(4 * value(volume, TotalVariation(1.0)), rel=1e-3)
    flat, gradient = torch.zeros(2, 1, 3, 3, 3)
    Penalty((TotalVariation(1.0),), Scales(FLOOR)).add_gradient(flat, gradient)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize(("axis", "factor"), [(-3, 3.0), (-2, 1.0), (-1, 1.0)])
def test_a_step_across_z_alone_is_weighed_with_its_own_factor(axis, factor):
    volume = torch.zeros(4, 4, 4, dtype=torch.float64)
    volume.narrow(axis, 2, 2).fill_(0.5)
    assert value(volume, TotalVariation(1.0, along_z=3.0)) == pytest.approx(factor * 0.5 * 16 / 64, rel=1e-3)


def test_total_variation_falls_to_its_weight_as_steps_shorten():
    prior = TotalVariation(0.2, first=3.0)
    found = [prior.weights(Scales(1.0, relative_step=step)).total_variation for step in (1.0, 0.5, 0.0)]
    assert found == pytest.approx([0.6, 0.4, 0.2])


def test_magnitude_is_the_mean_of_absolute_values():
    volume = torch.tensor([[1.0, -3.0], [0.0, 2.0]]).reshape(2, 1, 1, 2)
    assert value(volume, Sparsity(1.0)) == pytest.approx(6 / 4)
    assert value(volume, Vacuum(2.0), noise=0.5) == pytest.approx(6 / 4)


def test_roughness_is_the_squared_step_across_z_times_its_area_over_the_voxels():
    volume = torch.zeros(2, 4, 5, 6)
    volume[0, 2:] = 0.5
    assert value(volume, SmoothnessZ(1.0)) == pytest.approx(0.25 * 5 * 6 / (2 * 4 * 5 * 6))
    assert value(torch.arange(6.0).expand(4, 5, 6), SmoothnessZ(1.0)) == 0


EVERY_TERM = (TotalVariation(0.3, along_z=0.5), Sparsity(0.2), Vacuum(0.4), SmoothnessZ(0.1))
SCALES = Scales(step_rad=0.1, noise=0.5)


@pytest.mark.parametrize("prior", EVERY_TERM)
def test_the_gradient_of_each_prior_equals_finite_differences(prior):
    volume, direction, part = noise(2, 3, 3, 3) - 0.5, noise(2, 3, 3, 3) - 0.5, 1e-6
    sum_of = Penalty((prior,), SCALES)
    gradient = torch.zeros_like(volume)
    sum_of.add_gradient(volume, gradient)
    above, below = (sum_of.values(volume + by * direction)[prior.name] for by in (part, -part))
    assert float((gradient * direction).sum()) == pytest.approx((above - below) / (2 * part), rel=1e-6)


def test_the_penalty_names_each_term_with_its_weight():
    priors = Priors({prior.name: prior for prior in (*EVERY_TERM, TotalVariation(0.0))})
    assert set(priors.penalty(SCALES).values(noise(2, 4, 4, 4))) == {"l1", "vacuum", "smoothness_z"}
    assert Priors.make({"vacuum": {"weight": 1.0}}).weighted
    assert not Priors.make({"total_variation": {"along_z": 2.0}}).weighted


class Evenness(Prior):
    """A prior that the common pass does not contain."""

    name = "evenness"

    def density(self, block, scales):
        """See ``Prior``: the cubed difference to the next row."""
        return self.weight * torch.diff(block, dim=1, append=block[:, -1:]).abs() ** 3


@pytest.mark.parametrize(
    "priors", [EVERY_TERM, (Sparsity(0.2), SmoothnessZ(0.1)), (*EVERY_TERM, Evenness(0.5)), (Evenness(0.5),)]
)
@pytest.mark.parametrize("shape", [(7, 5, 6), (7, 5, 1), (7, 1, 6), (1, 5, 6)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("lie", [lambda volume: volume, with_y_last, lambda volume: volume[..., ::2, :]])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradient_a_few_planes_at_a_time_is_that_of_the_whole(monkeypatch, priors, shape, kind, lie, parts):
    """In double precision or with gaps as PyTorch has it, else compiled."""
    monkeypatch.setattr(penalty, "_IN_CACHE", 3 * 5 * 6)
    volume = lie(torch.randn(2, *shape, dtype=kind, generator=torch.Generator().manual_seed(3)))[:parts]
    whole = volume.clone().requires_grad_()
    sum(prior.density(part, SCALES).sum() for prior in priors for part in whole).backward()
    gradient = torch.ones_like(volume)
    Penalty(priors, SCALES).add_gradient(volume, gradient)
    torch.testing.assert_close(gradient - 1, whole.grad / (2 * volume[0].numel()))


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("shares", [2, 3])
def test_shares_of_the_planes_add_up_to_the_whole_gradient(kind, shares):
    sum_of = Penalty((*EVERY_TERM, Evenness(0.5)), SCALES)
    volume = torch.randn(2, 7, 5, 6, dtype=kind, generator=torch.Generator().manual_seed(3))
    whole, parts = torch.zeros(2, 2, 7, 5, 6, dtype=kind)
    sum_of.add_gradient(volume, whole, weight=3.0)
    for number in range(shares):
        sum_of.add_gradient(volume, parts, weight=torch.tensor(3.0), share=(number, shares))
    torch.testing.assert_close(parts, whole)


def test_a_second_gradient_length_stays_outside_the_common_pass():
    twice, volume = Penalty((TotalVariation(1.0), TotalVariation(2.0, along_z=3.0)), SCALES), noise(2, 4, 5, 6)
    assert twice.outside_common_pass.priors == (TotalVariation(2.0, along_z=3.0),)
    together, apart = torch.zeros(2, *volume.shape, dtype=torch.float64)
    twice.add_gradient(volume, together)
    for prior in twice.priors:
        Penalty((prior,), SCALES).add_gradient(volume, apart)
    torch.testing.assert_close(together, apart)


def test_what_is_no_number_stays_so():
    gradients = []
    for kind in (torch.float64, torch.float32):
        volume = torch.zeros(1, 3, 4, 5, dtype=kind)
        volume[0, 1, 2, 3] = math.nan
        gradients.append(torch.zeros_like(volume))
        Penalty(EVERY_TERM, SCALES).add_gradient(volume, gradients[-1])
    assert gradients[0][0, 1, 2, 3].isnan()
    assert torch.equal(gradients[1].isnan(), gradients[0].isnan())
