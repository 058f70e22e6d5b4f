"""Each setting of the unknowns does what it says; δ, β and probe are in radians and their own mean inside only."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import hologram_geometry

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions
from bluesky_multislice.optics.layout import has_y_last
from bluesky_multislice.solvers import FitSettings, Unknowns

N, VOXEL_M = 8, 1e-9
SETTINGS = FitSettings(
    epochs=10,
    batch_views=4,
    object_step_rad=0.05,
    probe_step=0.02,
    gradient_floor=0.0,
    absorption=True,
    positivity=False,
    seed=0,
    optimiser="adam",
)


def unknowns(**settings):
    model = ForwardModel(hologram_geometry(n=N), VolumeGrid((N, N, N), (VOXEL_M, VOXEL_M, VOXEL_M)), ModelOptions(2))
    probe = torch.full((1, N, N), 3 + 4j, dtype=torch.complex64)
    return Unknowns(model, probe, replace(SETTINGS, **settings), torch.device("cpu"))


def stepped(gradient, **settings):
    """Unknowns after one step along a gradient of the object, and of one everywhere for the probe."""
    moved = unknowns(**settings)
    for tensor, value in zip(moved.gradients(), (gradient, torch.ones(())), strict=False):
        tensor += value
    moved.step()
    return moved


def test_they_start_from_vacuum_and_the_given_probe():
    start = unknowns()
    assert start.delta.shape == start.beta.shape == (N, N, N)
    assert not start.delta.any()
    torch.testing.assert_close(start.probe, torch.full((1, N, N), 3 + 4j, dtype=torch.complex64))


def test_a_step_moves_delta_by_its_phase_through_the_whole_volume():
    moved = stepped(torch.ones(()))
    wavelength_m = hologram_geometry().beam.wavelength_m
    phase = 2 * np.pi / wavelength_m * N * VOXEL_M * moved.delta
    torch.testing.assert_close(phase, torch.full((N, N, N), -0.05))


def test_steps_get_shorter_to_a_fiftieth():
    moved = unknowns()
    lengths = []
    for _ in range(SETTINGS.epochs + 1):
        before = moved.delta.detach()
        moved.gradients()[0].fill_(1.0)
        moved.step()
        moved.end_epoch()
        lengths.append(float((moved.delta - before).abs().max().detach()))
    assert lengths[-1] / lengths[0] == pytest.approx(0.02, rel=1e-2)
    assert lengths == sorted(lengths, reverse=True)


@pytest.mark.parametrize("optimiser", ["adam", "nesterov", "weighted"])
def test_what_is_as_large_as_the_volume_lies_with_y_last(optimiser):
    moved = stepped(torch.ones(()), optimiser=optimiser)
    moved.move(torch.ones(()))
    volumes = [moved.object.detach(), moved.gradients()[0], moved.copy()["object"], moved.delta.detach()]
    volumes += [tensor.detach() for name, tensor in moved.optimiser.state().items() if name.startswith("volume/")]
    assert len(volumes) > 4
    assert all(has_y_last(volume) for volume in volumes)


def test_gradients_are_zero_after_a_step():
    assert not any(gradient.any() for gradient in stepped(torch.ones(())).gradients())


def test_a_copy_is_what_restore_goes_back_to():
    moved = unknowns()
    saved = moved.copy()
    moved.gradients()[0].fill_(1.0)
    moved.gradients()[1].fill_(1.0)
    moved.step()
    assert moved.delta.any()
    moved.restore(saved)
    assert not moved.delta.any()
    torch.testing.assert_close(moved.probe, unknowns().probe)


def test_an_empty_volume_takes_no_memory_in_a_copy_and_a_better_one_takes_that_of_the_last():
    moved = stepped(torch.ones(()))
    assert unknowns().copy()["object"] is None
    first = moved.copy()
    again = moved.copy(over=first)
    assert [part.data_ptr() for part in again.values()] == [part.data_ptr() for part in first.values()]


@pytest.mark.parametrize("positivity", [True, False])
def test_positivity_keeps_delta_and_beta_from_going_negative(positivity):
    moved = stepped(torch.ones(()), positivity=positivity)
    assert bool((moved.delta < 0).any()) is not positivity
    assert bool((moved.beta < 0).any()) is not positivity


@pytest.mark.parametrize("absorption", [True, False])
def test_without_absorption_beta_stays_zero(absorption):
    moved = stepped(-torch.ones(()), absorption=absorption, probe_step=0.0)
    assert bool(moved.beta.any()) is absorption
    assert moved.delta.any()
    assert len(moved.object) == 1 + absorption
    # Its phase and its absorption through the whole volume are one step of 0.05.
    expected = moved.expected_intensity(np.array([0])).detach()
    np.testing.assert_allclose(expected, 25 * np.exp(-2 * 0.05 * absorption), rtol=1e-3)


def test_the_floor_keeps_voxels_still_that_the_beam_hardly_reaches():
    gradient = torch.full((2, N, N, N), 1e-6)
    gradient[:, 0] = 1.0
    free, floored = (stepped(gradient, gradient_floor=floor).copy()["object"][0].abs() for floor in (0.0, 0.02))
    assert float(free[1].max() / free[0].max()) == pytest.approx(1, rel=1e-3)
    assert float(floored[1].max() / floored[0].max()) < 1e-3
    assert float(floored[0].max() / free[0].max()) > 0.95


@pytest.mark.parametrize("probe_step", [0.0, 0.02])
def test_a_probe_that_is_not_refined_stays(probe_step):
    moved = stepped(torch.ones(()), probe_step=probe_step)
    change = (moved.probe - unknowns().probe).detach().abs().max()
    # The step is relative to the root mean square, 5, on the real and the imaginary part.
    assert float(change) == pytest.approx(probe_step * 5 * np.sqrt(2), rel=1e-3)
    assert len(moved.gradients()) == (2 if probe_step else 1)


def test_a_number_that_is_not_finite_is_noticed():
    moved = unknowns()
    assert moved.finite()
    with torch.no_grad():
        moved.object[0, 0, 0, 0] = torch.nan
    assert not moved.finite()


def test_expectation_is_the_models():
    start = unknowns()
    np.testing.assert_allclose(start.expected_intensity(np.array([0, 3])).detach(), 25.0, rtol=1e-4)
