"""What was refined reaches the result: positions, the volume's depth and the provenance's figures."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import pattern_scan

from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import Reconstruction
from bluesky_multislice.solvers import Solution


@pytest.fixture(scope="module")
def as_planned():
    scan, _ = pattern_scan(angles=2)
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    empty = torch.zeros(plan.grid.shape)
    solution = Solution(
        delta=empty,
        beta=empty,
        probe=torch.ones(1, 16, 16, dtype=torch.complex64),
        status="converged",
        advice="",
        best_epoch=1,
        history=(),
        r_factor=0.0,
        held_back_r_factor=None,
    )
    return Reconstruction(plan, scan.geometry, solution)


def refined(as_planned, **differences):
    return replace(as_planned, solution=replace(as_planned.solution, differences=differences))


def test_nothing_refined_leaves_scan_and_plan(as_planned):
    np.testing.assert_array_equal(as_planned.position_m, as_planned.geometry.position_m)
    assert as_planned.grid == as_planned.plan.grid


def test_positions_are_the_scans_with_their_own_and_their_angles_shifts(as_planned):
    own, shift = torch.full((50, 2), 1e-10), torch.tensor([[2e-10, 0.0], [0.0, -3e-10]])
    moved = refined(as_planned, positions=own, axis_shift=shift).position_m - as_planned.geometry.position_m
    np.testing.assert_allclose(moved[0], [3e-10, 1e-10], rtol=1e-5)
    np.testing.assert_allclose(moved[-1], [1e-10, -2e-10], rtol=1e-5)


def test_the_volume_is_as_deep_as_its_slices(as_planned):
    grid = as_planned.plan.grid
    deeper = refined(as_planned, slice_spacing=torch.full((4,), 0.05 * grid.thickness_m)).grid
    assert deeper.thickness_m == pytest.approx(1.2 * grid.thickness_m)
    assert deeper.voxel_size_m[1:] == grid.voxel_size_m[1:]


def test_a_background_is_in_the_frames_units(as_planned):
    solution = refined(as_planned, background=torch.tensor(0.5), tilt=torch.ones(2)).solution.with_probe_in(3.0)
    assert float(solution.differences["background"]) == 4.5
    assert float(solution.differences["tilt"][0]) == 1
