"""Sums over single frames: what noise and structure contribute, and that each stands at its own view."""

import numpy as np
import pytest
import torch
from small_scan import hologram_scan, rebuild

from bluesky_multislice.reconstruction import simulate_frames
from bluesky_multislice.solvers import FrameMisfits, frame_sums


def test_sums_of_a_frame_are_those_of_its_good_pixels():
    expected = torch.tensor([[[4.0, 9.0, 1.0], [1.0, 1.0, 1.0]]])
    measured = torch.tensor([[[1.0, 1.0, 3.0], [torch.nan, 2.0, 7.0]]])
    mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    sums = frame_sums(expected, measured, mask)
    # Residuals: 1, 2, -2 and, beside two pixels that are not used, -1.
    assert sums.tolist() == [[1 + 2 + 2 + 1, 1 + 1 + 3 + 2, 1 * 2 - 2 * 2, 2**2 + 4**2, 1 + 1 + 9 + 4]]
    misfits = FrameMisfits.of_sums(torch.cat([torch.zeros(1, 5), sums]))
    np.testing.assert_array_equal(misfits.r_factors, [np.nan, 6 / 7])
    assert misfits.r_factor == pytest.approx(6 / 7)


def test_noise_of_single_pixels_has_no_structure():
    expected = torch.full((1, 200, 200), 100.0)
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    noise = frame_sums(expected, counts.sqrt(), torch.ones(200, 200))[0]
    error = FrameMisfits.of_sums(noise[None]).structure_error
    assert error == pytest.approx(200 * 0.25, rel=0.1)
    assert abs(float(noise[2])) < 4 * error
    structured = frame_sums(expected + 10 * torch.sin(torch.arange(200) / 5), counts.sqrt(), torch.ones(200, 200))[0]
    assert float(structured[2]) == pytest.approx(200**2 * 0.125, rel=0.1)


def test_the_error_of_the_structure_is_that_of_the_pixels_with_light():
    expected = torch.full((400, 40, 40), 1e-9)
    expected[:, :4, :4] = 100.0
    counts = torch.poisson(expected, generator=torch.Generator().manual_seed(0))
    sums = frame_sums(expected, counts.sqrt(), torch.ones(40, 40))
    assert FrameMisfits.of_sums(sums).structure_error == pytest.approx(400**0.5 * float(sums[:, 2].std()), rel=0.15)


def test_each_frame_has_its_own_misfit_in_scan_order():
    scan = hologram_scan()
    solution = rebuild(scan, epochs=2, held_back_every=4)
    delta, beta = solution.delta.numpy(), solution.beta.numpy()
    model = np.array(list(simulate_frames(scan, delta, beta, voxel_size_m=(1e-9,) * 3)))
    frames = scan.frames.read(np.arange(8))
    level = np.sqrt(frames.sum() / model.sum())
    expected = np.abs(level * np.sqrt(model) - np.sqrt(frames)).sum((1, 2)) / np.sqrt(frames).sum((1, 2))
    np.testing.assert_allclose(solution.frame_misfits.r_factors, expected, rtol=0.1)
    held = np.arange(8) % 4 == 0
    assert solution.held_back_r_factor == pytest.approx(solution.frame_misfits.select(held).r_factor)
    assert solution.r_factor == pytest.approx(solution.frame_misfits.select(~held).r_factor)
