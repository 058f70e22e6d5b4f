"""Misfits and R-factor against values worked out by hand, their gradients, and what all data fidelities share."""

import math

import pytest
import torch

from bluesky_multislice.solvers.fidelity import (
    FIDELITIES,
    amplitude_misfit,
    intensity_misfit,
    poisson_misfit,
)

EXPECTED = torch.tensor([[[4.0, 9.0], [1.0, 25.0]]])
AMPLITUDE = torch.tensor([[[1.0, 5.0], [1.0, 100.0]]])
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
every_fidelity = pytest.mark.parametrize("name", FIDELITIES)


def frames(seed=0):
    """Intensities (3, 8, 8) of mean one, over two decades."""
    values = 10 ** (2 * torch.rand(3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return values / values.mean()


def test_amplitude_is_the_squared_distance_of_amplitudes_over_good_pixels():
    assert float(amplitude_misfit(EXPECTED, AMPLITUDE, MASK)) == pytest.approx(1 + 4)
    assert float(amplitude_misfit(EXPECTED, AMPLITUDE, torch.ones(2, 2))) == pytest.approx(1 + 4 + 95**2)


def test_poisson_is_a_quarter_of_the_deviance_over_good_pixels():
    deviance = 2 * (4 - 1 - math.log(4)) + 2 * (9 - 25 - 25 * math.log(9 / 25))
    assert float(poisson_misfit(EXPECTED, AMPLITUDE, MASK)) == pytest.approx(deviance / 4, rel=1e-3)


def test_intensity_is_the_squared_distance_over_the_brightness_of_the_frame():
    brightness = (1 + 25**2 + 1) / (1 + 25 + 1)
    assert float(intensity_misfit(EXPECTED, AMPLITUDE, MASK)) == pytest.approx((3**2 + 16**2) / (4 * brightness))


def test_intensity_of_several_frames_is_the_sum_of_each_of_them():
    expected, amplitude, mask = 1.1 * frames(), frames().sqrt() * torch.tensor([1.0, 3.0, 9.0])[:, None, None], MASK[0]
    parts = [intensity_misfit(expected[[at]], amplitude[[at]], mask.new_ones(8, 8)) for at in range(3)]
    torch.testing.assert_close(intensity_misfit(expected, amplitude, mask.new_ones(8, 8)), sum(parts))


@every_fidelity
def test_frames_too_bright_by_a_small_part_give_its_square_times_a_quarter_of_their_light(name):
    measured, part = frames(), 1e-3
    misfit = FIDELITIES[name]((1 + part) * measured, measured.sqrt(), torch.ones(8, 8))
    assert float(misfit) == pytest.approx(0.25 * part**2 * float(measured.sum()), rel=0.02)


@every_fidelity
def test_flat_frames_agree_to_second_order_in_any_error(name):
    error = 0.02 * (frames() - 1)
    misfit = FIDELITIES[name](1 + error, torch.ones_like(error), torch.ones(8, 8))
    assert float(misfit) == pytest.approx(0.25 * float(error.square().sum()), rel=0.05)


@every_fidelity
def test_least_at_the_truth_and_zero_there(name):
    truth = frames().requires_grad_()
    misfit = FIDELITIES[name](truth, truth.detach().sqrt(), torch.ones(8, 8))
    misfit.backward()
    assert float(misfit.detach()) == pytest.approx(0, abs=1e-9)
    assert float(truth.grad.abs().max()) < 1e-9
    for seed in range(1, 4):
        assert float(FIDELITIES[name](frames(seed), truth.detach().sqrt(), torch.ones(8, 8))) > 0.1


@every_fidelity
def test_gradient_equals_finite_differences(name):
    expected = EXPECTED.double().requires_grad_()
    misfit = FIDELITIES[name]
    assert torch.autograd.gradcheck(lambda values: misfit(values, AMPLITUDE.double(), MASK), (expected,))


@every_fidelity
def test_masked_pixels_have_no_gradient_and_dark_ones_a_finite_one(name):
    expected = torch.zeros(1, 2, 2, requires_grad=True)
    FIDELITIES[name](expected, AMPLITUDE, MASK).backward()
    assert torch.isfinite(expected.grad).all()
    assert float(expected.grad[0, 1, 1]) == 0
    assert expected.grad[0, 0].all()


@every_fidelity
def test_a_pixel_that_is_nan_in_one_frame_counts_as_masked_there_alone(name):
    measured, expected = frames().sqrt(), (1.2 * frames(1)).requires_grad_()
    measured[1, 2, 3] = torch.nan
    misfit = FIDELITIES[name](expected, measured, torch.ones(8, 8))
    misfit.backward()
    mask = torch.ones(8, 8)
    mask[2, 3] = 0
    masked = FIDELITIES[name](expected[[1]], torch.nan_to_num(measured[[1]]), mask)
    others = FIDELITIES[name](expected[[0, 2]], measured[[0, 2]], torch.ones(8, 8))
    torch.testing.assert_close(misfit, masked + others)
    assert float(expected.grad[1, 2, 3]) == 0
    assert float(expected.grad[0, 2, 3]) != 0


def test_amplitude_has_its_analytic_gradient():
    expected = EXPECTED.clone().requires_grad_()
    amplitude_misfit(expected, AMPLITUDE, MASK).backward()
    torch.testing.assert_close(expected.grad, MASK * (1 - AMPLITUDE / EXPECTED.sqrt()))


def test_the_mean_of_many_poisson_counts_is_unbiased_for_poisson_and_intensity_but_not_for_amplitude():
    counts = torch.poisson(torch.full((1, 200, 200), 1.5), generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(1.0, 2.0, 201)
    found = {
        name: float(levels[torch.stack([misfit(level, counts.sqrt(), torch.ones(1)) for level in levels]).argmin()])
        for name, misfit in FIDELITIES.items()
    }
    assert found["poisson"] == pytest.approx(1.5, abs=0.02)
    assert found["intensity"] == pytest.approx(1.5, abs=0.02)
    assert found["amplitude"] < 1.2


@pytest.mark.parametrize("threads", [1, 2])
def test_single_precision_on_the_processor_equals_double(threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    expected = torch.rand(5, 96, 97, generator=generator).requires_grad_()
    measured, mask = torch.rand(5, 96, 97, generator=generator), torch.ones(96, 97)
    measured[2, 3, 4], mask[7] = torch.nan, 0
    exact = expected.detach().double().requires_grad_()
    single, double = (amplitude_misfit(frames, measured, mask) for frames in (expected, exact))
    (3 * single).backward()
    (3 * double).backward()
    assert single.dtype == torch.float32
    assert float(single.detach()) == pytest.approx(float(double.detach()), rel=1e-6)
    torch.testing.assert_close(expected.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
