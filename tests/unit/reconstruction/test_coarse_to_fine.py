"""Fits to coarser frames, and by a cheaper model, that come before the fit asked for."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import blank, hologram_geometry, pattern_scan, rebuild, relative_error, thick_scan

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.models import ForwardModel, resample
from bluesky_multislice.optics import PROPAGATIONS
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Unknowns, load_views


def views_of(stored, regime="near_field", mask=None, saturation=None):
    geometry = hologram_geometry(n=stored.shape[-1], angles=len(stored))
    frames = Frames(stored, mask=mask, saturation=saturation)
    scan = Scan(replace(geometry, detector=replace(geometry.detector, regime=regime)), frames)
    return load_views(scan, np.arange(len(stored)), scale=1.0, device=torch.device("cpu"), saturated="mask")


def test_a_coarse_hologram_pixel_has_the_mean_intensity_of_its_good_ones():
    stored = np.arange(32, dtype=np.float32).reshape(2, 4, 4)
    mask = np.ones((4, 4), bool)
    mask[0, 1] = mask[2:, 2:] = False
    stored[1, 0, 0] = 99.0
    coarse = views_of(stored, mask=mask, saturation=99.0).coarser(2, far_field=False)
    assert coarse.coarseness == 2
    np.testing.assert_array_equal(coarse.mask, [[1, 1], [1, 0]])
    means = [[[(0 + 4 + 5) / 3, 4.5], [10.5, 0]], [[(20 + 21) / 2, 20.5], [26.5, 0]]]
    np.testing.assert_allclose(coarse.amplitude.square(), means, rtol=1e-6)


def test_a_coarse_hologram_pixel_without_a_value_is_left_out_in_its_frame():
    stored = np.ones((2, 4, 4), np.float32)
    stored[1, :2, :2] = 99.0
    coarse = views_of(stored, saturation=99.0).coarser(2, far_field=False)
    assert coarse.mask.all()
    assert coarse.amplitude.isnan().sum() == coarse.amplitude[1, 0, 0].isnan() == 1


def test_a_coarse_pattern_is_the_middle_about_the_same_axis():
    stored = np.zeros((1, 8, 8), np.float32)
    stored[0, 4, 4] = 16.0
    coarse = views_of(stored, "far_field").coarser(2, far_field=True)
    assert coarse.amplitude.shape == (1, 4, 4)
    assert coarse.amplitude[0, 2, 2] == 4 / 2
    assert float(coarse.amplitude.square().mean()) == pytest.approx(float(views_of(stored).amplitude.square().mean()))


@pytest.mark.parametrize("regime", ["near_field", "far_field"])
def test_the_coarse_model_expects_the_coarse_frames_of_a_smooth_sample(regime):
    scan = thick_scan()[0] if regime == "near_field" else pattern_scan()[0]
    plan = make_plan(Recipe(ranks=1, coarse_levels=1, slices=14, refine_probe=False), blank(scan.geometry))
    coarse = plan.earlier[0]
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in plan.grid.shape), indexing="ij")
    delta = torch.from_numpy(4e-3 * np.exp(-8 * (x**2 + (y - 0.1) ** 2 + z**2))).float()
    with join_mesh("cpu") as mesh:
        frames = []
        for each in (plan, replace(coarse, slices=14)):
            model = each.forward_model(scan.geometry)
            probe = wide_probe(model)
            part = resample(delta, plan.grid, each.grid)
            frames.append(model(part, 0 * part, probe, range(4)).detach())
        fine = Scan(scan.geometry.select(np.arange(4)), Frames(frames[0].numpy()))
        views = load_views(fine, np.arange(4), scale=1.0, device=mesh.device)
        expected = views.coarser(2, far_field=regime == "far_field").amplitude
    assert relative_error(frames[1].sqrt(), expected.numpy()) < 0.02


def wide_probe(model: ForwardModel):
    """A beam that fits into the window and whose pattern fits into the middle, of the same intensity on every grid."""
    y, x = (((torch.arange(n) - (n - 1) / 2) / n) ** 2 for n in model.window)
    return torch.exp(-20 * (y[:, None] + x))[None].to(torch.complex64)


@pytest.mark.parametrize("choice", [{"coarse_levels": 1}, {"first_propagation": "projection"}])
def test_a_fit_goes_on_from_the_cheaper_ones(choice):
    scan, truth = thick_scan()
    alone, after = (rebuild(scan, epochs=2, total_variation=0.0, start="empty", **recipe) for recipe in ({}, choice))
    fine = [epoch for epoch in after.history if epoch.epoch > len(after.history) - 2]
    assert fine[0].loss < 0.5 * alone.history[0].loss
    assert relative_error(after.delta, truth) < relative_error(alone.delta, truth)


def test_the_record_of_fits_in_turn_counts_on():
    scan, seen = thick_scan(n=16, angles=4)[0], []
    plan = make_plan(Recipe(ranks=1, epochs=3, coarse_levels=1), scan)
    with join_mesh("cpu") as mesh:
        solution = reconstruct(scan, plan, mesh, seen.append).solution
    assert tuple(seen) == solution.history
    assert [epoch.epoch for epoch in seen] == [1, 2, 3, 4, 5, 6]
    assert [epoch.coarseness for epoch in seen] == [2, 2, 2, 1, 1, 1]
    assert list(np.diff([epoch.seconds for epoch in seen]) > 0) == [True] * 5
    assert solution.best_epoch > 3


def test_what_a_fit_held_is_free_before_the_next_one_begins(monkeypatch):
    """An array as large as the volume must not wait for a garbage collection, which may not come during a fit."""
    made, begin = [], Unknowns.__init__

    def begin_alone(unknowns, *args):
        assert not any(other() for other in made)
        made.append(weakref.ref(unknowns))
        begin(unknowns, *args)

    monkeypatch.setattr(Unknowns, "__init__", begin_alone)
    gc.collect()
    gc.disable()
    try:
        scan = thick_scan(n=16, angles=12)[0]
        rebuild(
            scan,
            epochs=2,
            coarse_levels=1,
            shell_correlation=True,
            smoothing_by_held_back=True,
            polish=1,
            held_back_every=4,
        )
        assert not any(other() for other in made)
    finally:
        gc.enable()
    # That which judges first volumes, those of the weights that are tried, and two of each of the others.
    assert len(made) > 6


@pytest.mark.parametrize("choice", [{}, {"smoothing_by_held_back": True}, {"first_propagation": "projection"}])
def test_what_a_fit_starts_from_is_free_as_soon_as_it_has_begun(monkeypatch, choice):
    given, take = [], Unknowns.start_from

    def take_noted(unknowns, *parts):
        given.extend(weakref.ref(part) for part in parts)
        take(unknowns, *parts)

    monkeypatch.setattr(Unknowns, "start_from", take_noted)
    scan, held = thick_scan(n=16, angles=12)[0], []
    recipe = Recipe(ranks=1, epochs=2, start="thin_sample", held_back_every=4, **choice)
    gc.collect()
    gc.disable()
    try:
        with join_mesh("cpu") as mesh:
            result = reconstruct(
                scan,
                make_plan(recipe, scan),
                mesh,
                lambda epoch: held.append(sum(part() is not None for part in given)),
            )
    finally:
        gc.enable()
    assert result.start.startswith("thin sample")
    assert held == [0] * len(result.solution.history)


def test_the_waves_of_a_batch_are_free_before_the_next_ones_are_computed(monkeypatch):
    """They are most of what a batch takes, and memory that is free is used again."""
    held, propagate = [], PROPAGATIONS["multislice"]

    def propagate_alone(*args, **options):
        assert not any(waves() for waves in held)
        exit_wave = propagate(*args, **options)
        if exit_wave.requires_grad:
            held.append(weakref.ref(exit_wave.grad_fn))
        return exit_wave

    monkeypatch.setitem(PROPAGATIONS, "multislice", propagate_alone)
    scan = thick_scan(n=16, angles=12)[0]
    refine = {"quantities": ("positions", "intensity")}
    gc.collect()
    gc.disable()
    try:
        rebuild(scan, epochs=2, coarse_levels=1, batch_views=1, polish=2, held_back_every=4, slices=8, refine=refine)
    finally:
        gc.enable()
    assert len(held) > 2 * 2 * 9  # each view that is fitted, in each epoch of two fits


def test_a_refined_probe_goes_on_too():
    scan, _ = pattern_scan()
    wrong = replace(scan, probe=np.roll(scan.probe, 2, axis=-1))
    alone, after = (
        rebuild(wrong, epochs=2, total_variation=0.0, refine_probe=True, **recipe)
        for recipe in ({}, {"first_propagation": "multislice"})
    )
    assert after.history[2].loss < 0.5 * alone.history[0].loss
