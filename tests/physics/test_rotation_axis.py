"""Search of the rotation axis in holograms of a thick phantom from a finer, independent simulation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import blank, relative_error
from thick_hologram import Hologram

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.reconstruction.start import find_axis_pixels

SMALL = Hologram(size=32, angles=40, distance=60, bodies=60, radii=(0.05, 0.12))


@pytest.fixture(scope="module", params=[-2.5, 0.0])
def shifted(request):
    """A scan with frames centred off the axis, and the position of the axis right of their centre in pixels."""
    moved = replace(SMALL, axis=request.param)
    return moved.scan(moved.frames()), request.param


def found_in(scan):
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    probe = torch.ones(1, *plan.forward_model(scan.geometry).window, dtype=torch.complex64)
    with join_mesh("cpu") as mesh:
        return find_axis_pixels(scan, plan, probe, 1.0, mesh)


def test_the_axis_is_found_within_a_fifth_of_a_pixel(shifted):
    scan, axis = shifted
    assert found_in(scan) == pytest.approx(axis, abs=0.2)


@pytest.mark.parametrize(("angles", "seed"), [(24, 5), (20, 5), (16, 3), (16, 4), (12, 5), (8, 3)])
def test_of_few_angles_an_axis_is_found_within_a_quarter_pixel_or_not_at_all(angles, seed):
    few = replace(SMALL, angles=angles, seed=seed, axis=1.3)
    found = found_in(few.scan(few.frames()))
    assert found is None or found == pytest.approx(few.axis, abs=0.25)
    assert (found is not None) == (angles >= 20)


def test_the_reconstruction_is_about_the_axis_that_was_found():
    axis, results = 3.3, {}
    moved = replace(SMALL, axis=axis)
    scan = moved.scan(moved.frames())
    for search in (True, False):
        with join_mesh("cpu") as mesh:
            plan = make_plan(Recipe(ranks=1, device="cpu", find_axis=search, epochs=2, slices=4), scan)
            results[search] = reconstruct(scan, plan, mesh)
    found = results[True]
    assert found.axis_pixels == pytest.approx(axis, abs=0.2)
    assert results[False].axis_pixels is None
    assert found.solution.held_back_r_factor < 0.6 * results[False].solution.held_back_r_factor
    assert relative_error(found.solution.delta, SMALL.truth()) < 0.5 * relative_error(
        results[False].solution.delta, SMALL.truth()
    )
    assert any("rotation axis was found" in line for line in found.warnings)
    pixel_m = found.plan.grid.voxel_size_m[2]
    np.testing.assert_allclose(found.position_m[:, 1], -found.axis_pixels * pixel_m)


def test_few_angles_do_not_tell_and_are_not_asked():
    geometry = SMALL.geometry()
    few = SMALL.scan(np.ones((40, 32, 32))).geometry.select(np.arange(0, 40, 2))
    assert not _plan_of(few).find_axis
    assert _plan_of(geometry).find_axis
    assert not _plan_of(geometry, find_axis=False).find_axis
    with pytest.raises(PlanError, match="find_axis for holography of 1 angle"):
        _plan_of(geometry.select(np.arange(1)), find_axis=True)


def test_noise_has_no_axis():
    random = np.random.default_rng(1).uniform(0.9, 1.1, (40, 32, 32))
    scan = SMALL.scan(random)
    plan = make_plan(Recipe(ranks=1, device="cpu", epochs=1, slices=2), scan)
    with join_mesh("cpu") as mesh:
        result = reconstruct(scan, plan, mesh)
    assert result.axis_pixels is None
    assert any("rotation axis was not found" in line for line in result.warnings)


def _plan_of(geometry, **recipe):
    return make_plan(Recipe(ranks=1, device="cpu", **recipe), blank(geometry))
