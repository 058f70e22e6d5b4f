"""How many views a step takes: many where the volume is large, as ever where it is small."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import blank, hologram_geometry, pattern_scan

from bluesky_multislice.cli.plan_scan import scan_of_sizes
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import (
    RESERVE,
    Machine,
    Plan,
    data_sheets,
    exchange_of,
    make_plan,
    predict_cost,
    small_steps,
    work_of,
)
from bluesky_multislice.planning.cost import memory_parts
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.fit_sequence import load_data
from bluesky_multislice.solvers import Unknowns, assign_lanes, fit, split_views

GPUS = Machine(8, 8, 80 * 10**9, accelerator=True)


def patterns_of(side=256, angles=200, positions=169):
    """A scan whose volume is large beside the patterns of an angle, a quarter of it wide."""
    sizes = {"volume": side, "frame": side // 4, "angles": angles, "views_per_angle": positions}
    return scan_of_sizes(sizes | {"pixel_nm": 10.0, "energy_kev": 12.4})


@pytest.fixture(scope="module")
def large():
    scan = patterns_of()
    return scan, make_plan(Recipe(ranks=8), scan, GPUS)


@pytest.mark.parametrize("technique", ["holography", "ptychography"])
def test_small_scans_take_steps_of_few_views(technique):
    holography = technique == "holography"
    geometry = hologram_geometry(n=64, angles=90) if holography else pattern_scan(angles=8)[0].geometry
    plan = make_plan(Recipe(ranks=1, device="cpu"), blank(geometry))
    assert (plan.whole_angles, plan.fit.batches_per_lane, plan.fit.step) == (False, 1, 1.0)
    again = make_plan(small_steps(plan, geometry, Recipe(ranks=1, device="cpu")), blank(geometry))
    assert again == plan


def test_a_large_volume_is_turned_once_to_each_angle(large):
    scan, plan = large
    work, per_angle = work_of(plan, scan.geometry), 169
    assert plan.whole_angles
    # Every twentieth view is held back: those of each angle are looked at, too, on the way there only.
    assert plan.fit.batch_views in (per_angle - 9, per_angle - 8)
    # A rank has 25 angles to fit and, as others may share one of them, 27 to judge by, of δ and β.
    assert 2 * 2 * 25 < work.most_rotations <= 2 * (2 * 25 + 27)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_steps_of_a_large_volume_are_as_few_as_serve_and_cost_a_fifth(large):
    scan, plan = large
    small = make_plan(small_steps(plan, scan.geometry, Recipe(ranks=8)), scan, GPUS)
    times = data_sheets()["a100"].profile
    costs = [predict_cost(each, scan.geometry, accelerator=True, profile=times) for each in (small, plan)]
    assert costs[1].gradients < 0.2 * costs[0].gradients
    assert plan.fit.epochs * costs[1].seconds.total < 0.2 * small.fit.epochs * costs[0].seconds.total
    assert costs[1].useful > 4 * costs[0].useful
    assert 20 <= costs[1].work.steps <= 25


def test_more_gpus_or_fewer_angles_leave_twenty_steps():
    scan = patterns_of(angles=60)
    plan = make_plan(Recipe(ranks=8), scan, GPUS)
    assert work_of(plan, scan.geometry).steps >= 20


@pytest.mark.parametrize("chosen", [{"batch_views": 16}, {"batches_per_step": 8}])
def test_what_a_recipe_says_of_batches_holds(chosen):
    plan = make_plan(Recipe(ranks=8, **chosen), patterns_of(), GPUS)
    assert not plan.whole_angles
    assert plan.fit.batches_per_lane == 1


def test_a_recipes_epochs_and_step_hold_for_large_steps(large):
    scan, plan = large
    asked = make_plan(Recipe(ranks=8, epochs=3, step=0.5), scan, GPUS)
    assert asked.fit.epochs == 3
    assert asked.fit.step == plan.fit.step / 2


def test_long_steps_are_of_three_angles_at_least_where_that_leaves_twenty():
    many = make_plan(Recipe(ranks=1), patterns_of(angles=80), GPUS)
    assert (many.lanes * many.fit.batches_per_lane >= 3, many.fit.step) == (True, 2.0)
    scan = patterns_of(angles=40)
    plan = make_plan(Recipe(ranks=1), scan, GPUS)
    assert plan.whole_angles
    assert plan.lanes * plan.fit.batches_per_lane < 3
    assert plan.fit.step == 1.0


def test_a_batch_is_of_fewer_views_where_memory_is_short(large):
    scan, recipe = large[0], Recipe(mesh="8x1", frames_in="disk")
    plan = make_plan(recipe, scan, GPUS)
    whole = memory_parts(replace(plan, gradient="recomputed"), scan.geometry, True).total
    less = make_plan(recipe, scan, replace(GPUS, memory_bytes=int((whole - 1) / (1 - RESERVE))))
    assert less.whole_angles
    assert less.fit.batch_views == np.ceil(plan.fit.batch_views / 2)
    assert less.memory_bytes < whole


def test_slabs_that_memory_asks_for_leave_a_lane_for_each_group_of_ranks():
    scan = blank(hologram_geometry(n=512, angles=120))
    alone = make_plan(Recipe(ranks=8), scan, GPUS)
    short = make_plan(Recipe(ranks=8), scan, replace(GPUS, memory_bytes=int(0.8 * alone.memory_bytes)))
    assert (alone.slabs, alone.lanes) == (1, 8)
    assert short.slabs > 1
    assert short.lanes == max(2, 8 // short.slabs)
    assert short.lanes * short.fit.batch_views * 20 <= 114


def test_lanes_are_sectors_of_the_angles_and_hold_all_views_of_each():
    angle_rad = np.repeat(np.arange(6) * 0.5, 4)
    views = np.arange(24)[np.arange(24) % 5 > 0]
    lane = assign_lanes(views, 3, angle_rad)
    assert np.array_equal(lane, (angle_rad[views] / 0.5).astype(int) // 2)
    assert np.array_equal(assign_lanes(views, 3), np.arange(len(views)) % 3)


@pytest.mark.parametrize("per_lane", [1, 2, 5])
def test_a_fit_takes_as_many_steps_as_are_counted(per_lane, monkeypatch):
    scan, steps = pattern_scan(angles=8)[0], []
    plan = make_plan(Recipe(ranks=1, device="cpu", epochs=1, slices=2), scan)
    settings = replace(plan.fit, batch_views=30, batches_per_lane=per_lane)
    plan = replace(plan, whole_angles=True, fit=settings)
    monkeypatch.setattr(Unknowns, "step", lambda unknowns, one_pass: (steps.append(1), unknowns.zero_gradients()))
    with join_mesh("cpu") as mesh:
        data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=1.0, mesh=mesh)
        model = plan.forward_model(scan.geometry)
        probe = torch.ones((plan.probe_modes, *model.window), dtype=torch.complex64)
        fit(Unknowns(model, probe, plan.fit, mesh.device), data.fitted, data.held_back, mesh, print)
    assert len(steps) == work_of(plan, scan.geometry).steps
    assert exchange_of(plan, scan.geometry).rows == 0


@pytest.mark.parametrize(
    ("positions", "threads", "recipe", "ranks"),
    [
        (81, "", {}, 2),
        (81, "1", {}, 4),
        (81, "", {"ranks": 3}, 3),
        (81, "", {"mesh": "4x1"}, 4),
        (81, "", {"batch_views": 81, "batches_per_step": 4}, 4),
    ],
)
def test_small_steps_take_two_threads_instead_of_two_ranks(monkeypatch, positions, threads, recipe, ranks):
    monkeypatch.setattr("bluesky_multislice.planning.machine.usable_cores", lambda: 4)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    scan = patterns_of(64, angles=24, positions=positions)
    assert make_plan(Recipe(device="cpu", **recipe), scan).ranks == ranks
