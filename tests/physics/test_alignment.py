"""Alignment of holograms of a thick phantom that are shifted from angle to angle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shifted_series import (
    Island,
    alignment_of,
    bounded_shifts,
    drift,
    errors_of,
    random_shifts,
    scan_of_distances,
    shifted,
    without_motion,
)
from small_scan import blank, hologram_geometry
from thick_hologram import Hologram

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.reconstruction.start import move_views

PHANTOM = Hologram(size=32, angles=24, distance=60, bodies=40, radii=(0.05, 0.12))
ANGLES_RAD = PHANTOM.geometry().angle_rad


def found_in(frames, views=None):
    return alignment_of(PHANTOM.scan(frames), views)


def errors(found, shifts):
    return errors_of(found, shifts, ANGLES_RAD)


def rebuilt(frames, **recipe):
    scan = PHANTOM.scan(frames)
    plan = make_plan(Recipe(ranks=1, device="cpu", slices=4, **recipe), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh)


@pytest.fixture(scope="module")
def frames():
    return PHANTOM.frames()


@pytest.mark.parametrize(
    ("shifts", "error"),
    [(random_shifts(1, ANGLES_RAD), 0.2), (random_shifts(2, ANGLES_RAD), 0.25), (drift(3, ANGLES_RAD), 0.4)],
)
def test_shifts_are_found_to_a_fraction_of_a_pixel(frames, shifts, error):
    found = found_in(shifted(frames, shifts))
    along_y, along_x = errors(found, shifts).std(0)
    assert found.is_better
    assert along_y < 0.1
    assert along_x < error


def test_an_angle_without_a_usable_view_is_not_shifted(frames):
    shifts = random_shifts(2, ANGLES_RAD)
    spoilt = shifted(frames, shifts)
    spoilt[5] *= 50
    found = found_in(spoilt, np.delete(np.arange(len(frames)), 5))
    assert found.is_better
    assert not found.pixels[5].any()
    assert np.delete(errors(found, shifts), 5, axis=0).std(0).max() < 0.5


def test_frames_of_several_distances_are_shifted_alike():
    shifts = random_shifts(2, ANGLES_RAD)
    scan = scan_of_distances((PHANTOM, replace(PHANTOM, distance=90)), shifts)
    found = alignment_of(scan)
    assert found.is_better
    assert errors(found, shifts).std(0).max() < 0.3


def test_large_shifts_of_a_sample_inside_the_frames_are_found():
    island = Island(size=32, angles=24, distance=60, radii=PHANTOM.radii)
    shifts = bounded_shifts(5, ANGLES_RAD)
    found = found_in(shifted(island.frames(), shifts))
    assert found.is_better
    assert errors(found, shifts).std(0).max() < 0.2


@pytest.mark.parametrize("axis", [0.0, 2.0])
def test_a_series_that_is_aligned_about_any_axis_is_not_shifted(frames, axis):
    found = found_in(shifted(frames, np.tile([0.0, axis], (len(frames), 1))))
    assert not found.is_better
    assert found.misfit == pytest.approx(found.misfit_before, rel=0.1)


def test_noise_is_not_aligned():
    assert not found_in(np.random.default_rng(1).uniform(0.9, 1.1, (24, 32, 32))).is_better


def test_views_move_by_their_angles_shifts():
    shifts, pixel_m = random_shifts(2, ANGLES_RAD), (1e-9, 2e-9)
    moved = move_views(blank(PHANTOM.geometry()), shifts, pixel_m)
    np.testing.assert_allclose(moved.geometry.position_m, shifts * pixel_m)


def test_the_volume_of_a_shifted_series_is_as_good_as_of_an_aligned_one(frames):
    truth, shifts = PHANTOM.truth().ravel(), random_shifts(2, ANGLES_RAD)
    aligned, found, neglected = (
        rebuilt(series, epochs=4, **recipe)
        for series, recipe in ((frames, {}), (shifted(frames, shifts), {}), (shifted(frames, shifts), {"align": False}))
    )
    correlations = [np.corrcoef(each.solution.delta.ravel(), truth)[0, 1] for each in (aligned, found, neglected)]
    assert correlations[1] > correlations[0] - 0.02
    assert correlations[2] < correlations[0] - 0.1
    assert aligned.alignment is None
    assert neglected.alignment is None
    assert "axis_shift" in found.solution.differences
    assert any("series was aligned" in line for line in found.warnings)
    pixel_m = found.plan.grid.voxel_size_m[1]
    assert (without_motion(found.position_m / pixel_m, ANGLES_RAD) + shifts).std(0).max() < 0.25


def test_an_aligned_series_gives_the_same_volume_with_and_without_a_search(frames):
    searched, plain = (rebuilt(frames, epochs=1, align=align) for align in (None, False))
    assert searched.plan.align
    torch.testing.assert_close(searched.solution.delta, plain.solution.delta, rtol=0, atol=0)
    np.testing.assert_array_equal(searched.position_m, plain.position_m)


def test_holograms_of_many_angles_are_aligned_by_default():
    many, few = hologram_geometry(angles=16), hologram_geometry(angles=15)
    assert _plan_of(many).align
    assert not _plan_of(few).align
    assert _plan_of(few, align=True).align
    assert not _plan_of(many, align=False).align
    with pytest.raises(PlanError, match="align for holography of 1 angle"):
        _plan_of(many.select(np.arange(1)), align=True)


def _plan_of(geometry, **recipe):
    return make_plan(Recipe(ranks=1, device="cpu", **recipe), blank(geometry))
