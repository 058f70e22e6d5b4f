"""Total variation: what it must give for volumes whose answer is known."""

import pytest
import torch

from bluesky_multislice.solvers.regularisers import total_variation

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
