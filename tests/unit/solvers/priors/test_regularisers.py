"""Regularisers and bounds: what they must give for volumes whose answer is known."""

import math

import pytest
import torch
from small_scan import VOXEL_M, hologram_geometry

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.optics import with_y_last
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.solvers import Priors, add_gradient_of_penalty, apply_bounds
from bluesky_multislice.solvers.fidelity import amplitude_misfit
from bluesky_multislice.solvers.priors import regularisers, vacuum_noise_weight
from bluesky_multislice.solvers.priors.regularisers import magnitude, penalty, roughness_z, total_variation

FLOOR = 1e-4


def test_constant_has_none():
    assert float(total_variation(torch.full((2, 4, 5, 6), 3.0), FLOOR)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_step_across_each_axis_has_its_height_times_its_area(axis):
    volume = torch.zeros(4, 4, 4, dtype=torch.float64)
    volume.narrow(axis, 2, 2).fill_(0.5)
    assert float(total_variation(volume, FLOOR)) == pytest.approx(0.5 * 16 / 64, rel=1e-3)


def test_it_grows_in_proportion_to_the_volume():
    volume = torch.rand(5, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(total_variation(3 * volume, FLOOR)) == pytest.approx(
        3 * float(total_variation(volume, FLOOR)), rel=1e-3
    )


def test_below_the_floor_it_is_quadratic_and_so_differentiable():
    volume = torch.rand(5, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e-3 * FLOOR
    assert float(total_variation(2 * volume, FLOOR)) == pytest.approx(
        4 * float(total_variation(volume, FLOOR)), rel=1e-3
    )
    flat = torch.zeros(3, 3, 3, requires_grad=True)
    total_variation(flat, FLOOR).backward()
    assert torch.isfinite(flat.grad).all()


def test_its_gradient_equals_finite_differences():
    volume = torch.rand(1, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: total_variation(values, 0.1), (volume,))


@pytest.mark.parametrize(("axis", "factor"), [(-3, 3.0), (-2, 1.0), (-1, 1.0)])
def test_a_step_across_z_alone_is_weighed_with_its_own_factor(axis, factor):
    volume = torch.zeros(4, 4, 4, dtype=torch.float64)
    volume.narrow(axis, 2, 2).fill_(0.5)
    assert float(total_variation(volume, FLOOR, along_z=3.0)) == pytest.approx(factor * 0.5 * 16 / 64, rel=1e-3)


def test_total_variation_falls_to_its_weight_as_steps_shorten():
    priors = Priors(total_variation=0.2, l1=0.1, first_smoothing=3.0)
    assert [priors.at(step).total_variation for step in (1.0, 0.5, 0.0)] == pytest.approx([0.6, 0.4, 0.2])
    assert priors.at(1.0).l1 == 0.1


def test_magnitude_is_the_mean_of_absolute_values():
    assert float(magnitude(torch.tensor([[1.0, -3.0], [0.0, 2.0]]))) == pytest.approx(6 / 4)


def test_roughness_is_the_squared_step_across_z_times_its_area_over_the_voxels():
    volume = torch.zeros(2, 4, 5, 6)
    volume[0, 2:] = 0.5
    assert float(roughness_z(volume)) == pytest.approx(0.25 * 5 * 6 / (2 * 4 * 5 * 6))
    ramp = torch.arange(6.0).expand(4, 5, 6)
    assert float(roughness_z(ramp)) == 0


def noise(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "priors", [Priors(total_variation=1.0, total_variation_z=2.0), Priors(l1=1.0, vacuum=2.0), Priors(smoothness_z=1.0)]
)
def test_the_gradient_of_each_term_equals_finite_differences(priors):
    volume = (noise(2, 3, 3, 3) - 0.5).requires_grad_()
    assert torch.autograd.gradcheck(lambda values: penalty(values, priors, 0.1, 0.5), (volume,))


def test_the_sum_adds_each_term_with_its_weight():
    volume = noise(2, 4, 4, 4) - 0.5
    both = Priors(total_variation=0.3, total_variation_z=0.5, l1=0.1, vacuum=0.2, smoothness_z=0.1)
    expected = 0.3 * total_variation(volume, FLOOR, along_z=0.5) + 0.2 * magnitude(volume) + 0.1 * roughness_z(volume)
    torch.testing.assert_close(penalty(volume, both, FLOOR, 0.5), expected)
    assert both.weighted
    assert Priors(vacuum=1.0).weighted
    assert not Priors(total_variation_z=2.0, beta_over_delta_max=1.0).weighted


def test_vacuum_is_held_against_one_sigma_of_the_frames_noise():
    scan, sigma, voxels = hologram_geometry(), 0.03, 16**3
    model = ForwardModel(scan, VolumeGrid((16, 16, 16), (VOXEL_M, VOXEL_M, VOXEL_M)), slices=4)
    amplitude = 1 + sigma * torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(1))
    delta = torch.zeros(16, 16, 16, requires_grad=True)
    unit = 1 / (wavenumber(scan.beam.wavelength_m) * 16 * VOXEL_M)
    expected = model(delta * unit, torch.zeros(16, 16, 16), torch.ones(1, 16, 16, dtype=torch.complex64), range(8))
    amplitude_misfit(expected, amplitude, torch.ones(16, 16)).div(amplitude.numel()).backward()
    pull = vacuum_noise_weight(sigma**2, lateral_pixels=16**2, measured_pixels=amplitude.numel()) / (2 * voxels)
    inside = delta.grad[4:-4, 4:-4, 4:-4]
    assert float(inside.square().mean().sqrt()) == pytest.approx(pull, rel=0.3)


def test_bounds_keep_beta_between_two_multiples_of_delta():
    random = torch.randn(2, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    volume, least, most = random.clone(), 0.3, 0.8
    apply_bounds(volume, Priors(beta_over_delta_min=least, beta_over_delta_max=most), positivity=False, support=None)
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
    apply_bounds(volume, Priors(beta_over_delta_min=least, beta_over_delta_max=most), positivity=True, support=None)
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
    apply_bounds(volume, Priors(beta_over_delta_min=0.5, beta_over_delta_max=0.5), positivity=True, support=None)
    torch.testing.assert_close(volume.flatten(1), torch.tensor([[0.8, 0.7], [0.4, 0.35]], dtype=torch.float64))


def test_positivity_and_support_take_out_what_may_not_be():
    volume = torch.tensor([[1.0, -1.0, 1.0], [1.0, -1.0, 1.0]]).reshape(2, 1, 1, 3)
    support = torch.tensor([True, True, False])
    apply_bounds(volume, Priors(), positivity=True, support=support)
    torch.testing.assert_close(volume.flatten(1), torch.tensor([[1.0, 0.0, 0.0]] * 2))
    free = torch.tensor([[-1.0], [2.0]]).reshape(2, 1, 1, 1)
    apply_bounds(free, Priors(), positivity=False, support=None)
    torch.testing.assert_close(free.flatten(), torch.tensor([-1.0, 2.0]))


EVERY_TERM = Priors(total_variation=0.3, total_variation_z=0.5, l1=0.2, vacuum=0.4, smoothness_z=0.1)


@pytest.mark.parametrize("priors", [EVERY_TERM, Priors(l1=0.2, smoothness_z=0.1)])
@pytest.mark.parametrize("shape", [(7, 5, 6), (7, 5, 1), (7, 1, 6), (1, 5, 6)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("lie", [lambda volume: volume, with_y_last, lambda volume: volume[..., ::2, :]])
@pytest.mark.parametrize("parts", [1, 2])
def test_gradient_a_few_planes_at_a_time_is_that_of_the_whole(monkeypatch, priors, shape, kind, lie, parts):
    """In double precision or with gaps as PyTorch has it, else compiled."""
    monkeypatch.setattr(regularisers, "_IN_CACHE", 3 * 5 * 6)
    volume = lie(torch.randn(2, *shape, dtype=kind, generator=torch.Generator().manual_seed(3)))
    volume[parts:] = 0
    whole = volume.clone().requires_grad_()
    penalty(whole, priors, 0.1, 0.5).backward()
    gradient = torch.ones_like(volume[:parts])
    add_gradient_of_penalty(volume[:parts], gradient, priors, 0.1, 0.5)
    torch.testing.assert_close(gradient - 1, whole.grad[:parts])


@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
@pytest.mark.parametrize("shares", [2, 3])
def test_shares_of_the_planes_add_up_to_the_whole_gradient(kind, shares):
    volume = torch.randn(2, 7, 5, 6, dtype=kind, generator=torch.Generator().manual_seed(3))
    whole, parts = torch.zeros(2, 2, 7, 5, 6, dtype=kind)
    add_gradient_of_penalty(volume, whole, EVERY_TERM, 0.1, 0.5, weight=3.0)
    for number in range(shares):
        add_gradient_of_penalty(volume, parts, EVERY_TERM, 0.1, 0.5, weight=torch.tensor(3.0), share=(number, shares))
    torch.testing.assert_close(parts, whole)


def test_what_is_no_number_stays_so():
    gradients = []
    for kind in (torch.float64, torch.float32):
        volume = torch.zeros(1, 3, 4, 5, dtype=kind)
        volume[0, 1, 2, 3] = math.nan
        gradients.append(torch.zeros_like(volume))
        add_gradient_of_penalty(volume, gradients[-1], EVERY_TERM, 0.1, 0.5)
    assert gradients[0][0, 1, 2, 3].isnan()
    assert torch.equal(gradients[1].isnan(), gradients[0].isnan())
