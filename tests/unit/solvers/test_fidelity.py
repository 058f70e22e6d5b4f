"""The misfit and the R-factor against values worked out by hand, and the misfit's gradient."""

import pytest
import torch

from bluesky_multislice.solvers.fidelity import amplitude_misfit, amplitude_r_factor

EXPECTED = torch.tensor([[[4.0, 9.0], [1.0, 25.0]]])
AMPLITUDE = torch.tensor([[[1.0, 5.0], [1.0, 100.0]]])
MASK = torch.tensor([[1.0, 1.0], [1.0, 0.0]])


def test_misfit_is_the_squared_distance_of_amplitudes_over_good_pixels():
    assert float(amplitude_misfit(EXPECTED, AMPLITUDE, MASK)) == pytest.approx(1 + 4)
    assert float(amplitude_misfit(EXPECTED, AMPLITUDE, torch.ones(2, 2))) == pytest.approx(1 + 4 + 95**2)


def test_misfit_of_equal_frames_is_zero():
    assert float(amplitude_misfit(AMPLITUDE**2, AMPLITUDE, MASK)) == pytest.approx(0, abs=1e-10)


def test_misfit_has_its_analytic_gradient_and_none_at_masked_pixels():
    expected = EXPECTED.clone().requires_grad_()
    amplitude_misfit(expected, AMPLITUDE, MASK).backward()
    torch.testing.assert_close(expected.grad, MASK * (1 - AMPLITUDE / EXPECTED.sqrt()))


def test_misfit_of_dark_pixels_has_a_finite_gradient():
    expected = torch.zeros(1, 2, 2, requires_grad=True)
    amplitude_misfit(expected, AMPLITUDE, MASK).backward()
    assert torch.isfinite(expected.grad).all()


def test_gradient_equals_finite_differences():
    expected = EXPECTED.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda frames: amplitude_misfit(frames, AMPLITUDE.double(), MASK), (expected,))


def test_r_factor_is_the_quotient_of_its_two_parts():
    difference, total = amplitude_r_factor(EXPECTED, AMPLITUDE, MASK)
    assert (float(difference), float(total)) == pytest.approx((1 + 2 + 0, 1 + 5 + 1))
