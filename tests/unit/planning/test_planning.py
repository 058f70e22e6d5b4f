"""What is derived from a scan, and what is refused before anything is allocated."""

import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, depth_of_field_m
from bluesky_multislice.planning import Plan, make_plan, window_margin
from bluesky_multislice.recipe import Recipe


def pattern_geometry(angles=4, regime="far_field", offset_m=(0.0, 0.0)):
    """81 positions over 32 pixels of 1 nm with windows of 32, at several angles."""
    steps = np.linspace(-16, 16, 9) * 1e-9
    y, x = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
    positions = np.tile(np.stack([y, x], -1), (angles, 1)) + np.array(offset_m)
    pixel = 55e-6 if regime == "far_field" else 1e-9
    return ScanGeometry(
        technique="ptychography",
        beam=Beam(0.8e-9),
        detector=Detector((32, 32), (pixel, pixel), regime),
        distance_m=np.full(len(positions), 1e-9 * 32 * 55e-6 / 0.8e-9 if regime == "far_field" else 20e-9),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, 81),
        position_m=positions,
    )


def plan_of(geometry, **recipe):
    return make_plan(Recipe(**recipe), blank(geometry))


def test_holograms_of_a_parallel_beam_reach_the_detector_exactly_and_fits_have_more_momentum():
    plan, patterns = plan_of(hologram_geometry()), plan_of(pattern_geometry())
    assert (plan.way_to_detector, patterns.way_to_detector) == ("angular_spectrum", "fresnel")
    assert (plan.fit.momentum, patterns.fit.momentum) == (0.97, 0.95)
    cone = replace(hologram_geometry(), beam=Beam(1e-10, focus_distance_m=1e-3))
    assert (plan_of(cone).way_to_detector, plan_of(cone).fit.momentum) == ("fresnel", 0.97)
    distances = cone.distance_m * np.linspace(1, 1.5, cone.views)
    assert plan_of(replace(cone, distance_m=distances)).fit.momentum == 0.95


def test_volume_covers_the_field_that_the_windows_cover():
    assert plan_of(pattern_geometry()).grid.shape == (64, 64, 64)
    assert plan_of(hologram_geometry(n=48)).grid.shape == (48, 48, 48)


def test_several_angles_keep_the_rotation_axis_in_the_middle():
    grid = plan_of(pattern_geometry(offset_m=(5e-9, 3e-9))).grid
    assert grid.shape == (70, 64, 70)
    assert grid.center_m == pytest.approx((0.0, 5e-9, 0.0))


def test_one_angle_is_centred_on_its_positions_and_has_one_slice():
    plan = plan_of(pattern_geometry(angles=1, offset_m=(5e-6, 3e-6)))
    assert plan.grid.shape == (1, 64, 64)
    assert plan.grid.center_m == pytest.approx((0.0, 5e-6, 3e-6))
    assert plan.grid.voxel_size_m[0] == pytest.approx(depth_of_field_m(1e-9, 0.8e-9))
    assert any("single slice" in note for note in plan.notes)


def test_one_angle_with_a_depth_gets_slices_thinner_than_the_depth_of_field():
    plan = plan_of(pattern_geometry(angles=1), depth_um=0.05)
    assert plan.grid.thickness_m == pytest.approx(50e-9)
    assert plan.grid.voxel_size_m[0] < depth_of_field_m(1e-9, 0.8e-9)
    assert plan.slices == plan.grid.shape[0]


def test_slices_follow_the_accuracy():
    plan = plan_of(hologram_geometry(n=64))
    depth_of_field = depth_of_field_m(1e-9, 0.5e-9)
    assert 0.55 * depth_of_field < plan.grid.thickness_m / plan.slices <= 0.6 * depth_of_field
    assert plan.depths_of_field == pytest.approx(64e-9 / depth_of_field)
    finer = plan_of(hologram_geometry(n=64), accuracy=0.03)
    assert finer.slices == 2 * plan.slices
    assert plan_of(hologram_geometry(n=64), accuracy=1e-3).slices == 64


def test_slices_need_not_divide_the_planes():
    assert plan_of(hologram_geometry(n=64), slices=7).slices == 7


def test_waves_are_recomputed_where_storing_them_takes_too_much_memory(monkeypatch):
    assert plan_of(hologram_geometry(n=64)).options == {"gradient": "stored"}
    small = plan_of(hologram_geometry(n=64), device="cpu", ranks=1)
    page, pages = (
        os.sysconf("SC_PAGE_SIZE"),
        {"SC_PHYS_PAGES": small.memory_bytes * 3 // 2 // os.sysconf("SC_PAGE_SIZE")},
    )
    monkeypatch.setattr(os, "sysconf", lambda name: pages.get(name, page))
    tight = plan_of(hologram_geometry(n=64), device="cpu", ranks=1)
    assert tight.options == {"gradient": "recomputed"}
    assert tight.memory_bytes < small.memory_bytes


def test_a_large_field_is_cut_into_tiles_of_at_least_four_halos():
    plan = plan_of(hologram_geometry(n=1000, angles=2), propagation="tiled-multislice", depth_um=0.05)
    safe = 4 * (0.5e-9 * 50e-9) ** 0.5 / 1e-9
    assert plan.tiles == ((1000 + 2 * plan.margin) // 256,) * 2
    assert safe / 2 < plan.halo < safe
    assert plan.options == {"gradient": "stored", "tiles": plan.tiles, "halo": plan.halo}
    deep = plan_of(
        hologram_geometry(n=500, angles=2), propagation="tiled-multislice", depth_um=0.35, accuracy=0.05, ranks=1
    )
    assert deep.tiles[0] == (500 + 2 * deep.margin) // (4 * deep.halo) < (500 + 2 * deep.margin) // 256
    assert plan_of(hologram_geometry(n=64), propagation="tiled-multislice").tiles == (1, 1)


def test_depth_of_the_recipe_is_the_depth_of_the_volume():
    assert plan_of(hologram_geometry(n=64), depth_um=0.032).grid.shape == (32, 64, 64)


def test_projection_has_one_slice():
    assert plan_of(hologram_geometry(), propagation="projection").slices == 1


def test_margin_is_how_far_light_walks_and_never_in_the_far_field():
    assert window_margin(pattern_geometry(), 1e-3) == 0
    scans = [hologram_geometry(n=64, distance_m=distance) for distance in (12e-9, 40e-9, 42e-9, 1e-6)]
    assert [window_margin(scan, 1e-3) for scan in scans] == [3, 10, 12, 16]
    assert window_margin(scans[-1], 1e-3, most=1.0) == 64


def test_margin_follows_the_accuracy():
    scan = hologram_geometry(n=256, distance_m=232e-9)
    margins = [window_margin(scan, accuracy) for accuracy in (0.2, 0.06, 0.02)]
    assert margins == sorted(set(margins))
    walk = 0.5e-9 * 232e-9 / (2 * 1e-9**2)
    assert margins[1] == pytest.approx(0.8 * walk, abs=4)
    assert margins[2] == pytest.approx(walk, abs=4)


def test_edges_that_let_light_out_have_room_for_it():
    scan = hologram_geometry(n=64, distance_m=12e-9)
    assert plan_of(scan).margin < 16
    assert plan_of(scan, edges="outgoing").margin == 16


def test_near_field_ptychography_has_the_margin_in_its_volume():
    geometry = pattern_geometry(angles=1, regime="near_field")
    assert plan_of(geometry).grid.shape[1] == 64 + 2 * window_margin(geometry, 0.06)


@pytest.mark.parametrize(
    ("geometry", "choice", "vacuum"),
    [
        (pattern_geometry(), {}, 1.0),
        (pattern_geometry(), {"l1": 0.0}, 0.0),
        (pattern_geometry(), {"positivity": False}, 0.0),
        (pattern_geometry(angles=1), {"positivity": True}, 0.0),
        (hologram_geometry(), {}, 0.0),
    ],
)
def test_vacuum_is_held_against_noise_in_patterns_of_several_angles(geometry, choice, vacuum):
    assert plan_of(geometry, **choice).fit.priors.weight_of("vacuum") == vacuum


@pytest.mark.parametrize(
    ("choice", "found"),
    [
        ({"epochs": 7}, lambda plan: plan.fit.epochs == 7),
        ({"batch_views": 3}, lambda plan: plan.fit.batch_views == 3),
        ({"ranks": 3}, lambda plan: (plan.ranks, plan.slabs, plan.lanes) == (3, 1, 3)),
        ({"ranks": 1}, lambda plan: (plan.ranks, plan.slabs, plan.lanes) == (1, 1, 2)),
        ({"mesh": "1x2"}, lambda plan: (plan.ranks, plan.slabs, plan.lanes) == (2, 2, 2)),
        ({"mesh": "3x2", "ranks": 6}, lambda plan: (plan.ranks, plan.slabs, plan.lanes) == (6, 2, 3)),
        ({"batches_per_step": 5}, lambda plan: plan.lanes == 5),
        ({"slices": 32}, lambda plan: plan.slices == 32),
        ({"refine_probe": False}, lambda plan: plan.fit.probe_step == 0),
        ({"positivity": False}, lambda plan: not plan.fit.positivity),
        ({"absorption": False}, lambda plan: not plan.fit.absorption),
        ({"total_variation": 0.1}, lambda plan: plan.fit.priors.weight_of("total_variation") == 0.1),
        ({"total_variation_z": 2.0}, lambda plan: plan.fit.priors.terms["total_variation"].along_z == 2),
        ({"total_variation_first": 2.0}, lambda plan: plan.fit.priors.terms["total_variation"].first == 2),
        ({"total_variation_floor": 0.3}, lambda plan: plan.fit.priors.terms["total_variation"].floor == 0.3),
        ({"priors": {"vacuum": {"weight": 0.5}}}, lambda plan: plan.fit.priors.weight_of("vacuum") == 0.5),
        ({"l1": 0.1}, lambda plan: plan.fit.priors.weight_of("l1") == 0.1),
        ({"smoothness_z": 0.1}, lambda plan: plan.fit.priors.weight_of("smoothness_z") == 0.1),
        ({"beta_over_delta_min": 0.1}, lambda plan: plan.fit.beta_over_delta_min == 0.1),
        ({"beta_over_delta_max": 0.1}, lambda plan: plan.fit.beta_over_delta_max == 0.1),
        ({"support": "cylinder"}, lambda plan: plan.support == "cylinder"),
        ({"saturated": "mask"}, lambda plan: plan.saturated == "mask"),
        ({"shell_correlation": True}, lambda plan: plan.shell_correlation),
        ({"fidelity": "poisson"}, lambda plan: plan.fit.fidelity == "poisson"),
        ({"polish": 2}, lambda plan: plan.fit.polish == 2 and plan.epochs == plan.fit.epochs + 2),
        ({"coarse_levels": 1}, lambda plan: [each.coarseness for each in plan.earlier] == [2]),
        (
            {"first_propagation": "projection"},
            lambda plan: [each.propagation for each in plan.earlier] == ["projection"],
        ),
        ({"seed": 5}, lambda plan: plan.fit.seed == 5),
        ({"momentum": 0.9}, lambda plan: plan.fit.momentum == 0.9),
        ({"optimiser": "adam"}, lambda plan: plan.fit.optimiser == "adam"),
        ({"refine": {"quantities": ["tilt"]}}, lambda plan: plan.fit.refinement.quantities == ("tilt",)),
        ({"refine": {"from_epoch": 3}}, lambda plan: plan.fit.refinement.from_epoch == 3),
        ({"refine": {"strength": 0.5}}, lambda plan: plan.fit.refinement.strength == 0.5),
        ({"refine": {"furthest_pixels": 4.0}}, lambda plan: plan.fit.refinement.furthest_pixels == 4),
        ({"probe_modes": 2}, lambda plan: plan.probe_modes == 2),
        ({"held_back_every": 7}, lambda plan: plan.held_back_every == 7),
        ({"accuracy": 0.01}, lambda plan: plan.slices > plan_of(pattern_geometry()).slices),
        ({"edges": "outgoing"}, lambda plan: plan.edges == "outgoing"),
        ({"interpolation": "fourier"}, lambda plan: plan.interpolation == "fourier"),
        ({"interpolation": "cubic"}, lambda plan: plan.memory_bytes > plan_of(pattern_geometry()).memory_bytes),
        ({"oversampling": 2}, lambda plan: plan.oversampling == 2 and plan.grid.shape == (96, 96, 96)),
        ({"point_spread_pixels": 1.5}, lambda plan: plan.point_spread_pixels == 1.5),
        ({"propagation": "finite-difference"}, lambda plan: plan.propagation == "finite-difference"),
    ],
)
def test_every_choice_of_the_recipe_reaches_the_plan(choice, found):
    assert found(plan_of(pattern_geometry(), **choice))
    assert not found(plan_of(pattern_geometry()))


def test_step_scales_the_steps_of_object_and_probe():
    once, twice = plan_of(pattern_geometry()).fit, plan_of(pattern_geometry(), step=2).fit
    assert (twice.object_step_rad, twice.probe_step) == (2 * once.object_step_rad, 2 * once.probe_step)
    assert (once.step, twice.step) == (1, 2)


def test_several_angles_are_smoothed_a_little_unless_a_person_says_no():
    weights = [
        plan_of(geometry, **recipe).fit.priors.weight_of("total_variation")
        for geometry, recipe in (
            (pattern_geometry(), {}),
            (hologram_geometry(), {}),
            (pattern_geometry(angles=1), {}),
            (pattern_geometry(), {"total_variation": 0.0}),
        )
    ]
    assert weights == [0.003, 0.002, 0, 0]


def test_several_angles_want_accelerated_descent_where_it_leaves_no_haze():
    several = [
        plan_of(geometry, **recipe).fit
        for geometry, recipe in ((pattern_geometry(), {}), (hologram_geometry(), {}), (pattern_geometry(), {"l1": 0.0}))
    ]
    assert [(fit.optimiser, fit.epochs) for fit in several] == [("nesterov", 8), ("nesterov", 40), ("adam", 15)]


def test_a_plan_survives_json():
    refine = {"quantities": ["positions"], "schedules": {"positions": {"bound": 1.0}, "probe": {"strength": 0.5}}}
    plan = plan_of(pattern_geometry(angles=1), refine=refine)
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


def test_coarser_fits_come_first_each_twice_as_fine_as_the_one_before():
    plan = plan_of(hologram_geometry(n=64), coarse_levels=2, refine={"quantities": ["axis_shift"]})
    assert [each.coarseness for each in (*plan.earlier, plan)] == [4, 2, 1]
    assert [each.grid.shape for each in (*plan.earlier, plan)] == [(16, 16, 16), (32, 32, 32), (64, 64, 64)]
    assert {each.grid.thickness_m for each in (*plan.earlier, plan)} == {64e-9}
    assert [each.slices for each in plan.earlier] == [math.ceil(plan.slices / factor**2) for factor in (4, 2)]
    assert [each.fit.refinement.quantities for each in (*plan.earlier, plan)] == [(), (), ("axis_shift",)]
    assert plan.fit.object_step_rad < plan.earlier[0].fit.object_step_rad
    assert plan.epochs == 3 * plan.fit.epochs
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan
    for each in (*plan.earlier, plan):
        frame = hologram_geometry(n=64).coarser(each.coarseness).detector.shape[0]
        assert frame + 2 * each.margin == (64 + 2 * plan.margin) // each.coarseness


def test_slices_of_one_angle_keep_their_depth_in_coarser_fits():
    plan = plan_of(pattern_geometry(angles=1), depth_um=0.1, slices=3, coarse_levels=1)
    (coarse,) = plan.earlier
    assert coarse.grid.shape[0] == 3
    assert coarse.slices == 1
    assert coarse.grid.thickness_m == plan.grid.thickness_m


def test_too_few_views_to_hold_any_back_is_said():
    assert any("too few views for validation" in note for note in plan_of(hologram_geometry(angles=8)).notes)
    assert not any("too few views" in note for note in plan_of(hologram_geometry(angles=40)).notes)


@pytest.mark.parametrize(
    ("geometry", "recipe", "words"),
    [
        (hologram_geometry(n=64), {"slices": 65}, "65 slices for 64 planes"),
        (hologram_geometry(angles=8), {"ranks": 9}, "9 ranks for 8"),
        (pattern_geometry(angles=1), {"slices": 3}, "3 slices without depth_um"),
        (hologram_geometry(angles=1), {"shell_correlation": True}, "1 view to fit"),
        (pattern_geometry(angles=1), {"support": "cylinder"}, "several angles"),
        (
            replace(hologram_geometry(), detector=Detector((16, 16), (1e-9, 2e-9), "near_field")),
            {},
            "square object pixels",
        ),
        (pattern_geometry(), {"refine": {"quantities": ["distance_shift"]}}, "several angles in the far field"),
        (hologram_geometry(), {"refine": {"quantities": ["slice_spacing"]}}, "slice_spacing for several"),
        (pattern_geometry(angles=1), {"refine": {"quantities": ["slice_spacing"]}}, "slice_spacing for one angle"),
        (pattern_geometry(angles=1), {"refine": {"quantities": ["angle", "tilt"]}}, "angle, tilt for one angle"),
        (hologram_geometry(), {"refine": {"quantities": ["background", "background_map"]}}, "background_map for"),
        (hologram_geometry(n=36), {"coarse_levels": 3}, "8 times coarser"),
        (hologram_geometry(n=16), {"coarse_levels": 2}, "4 times coarser"),
        (hologram_geometry(n=4096), {"device": "cpu"}, "fit into memory"),
        (pattern_geometry(), {"mesh": "2x2", "ranks": 2}, "2 ranks and the mesh 2x2"),
        (hologram_geometry(n=9, angles=40), {"mesh": "1x4"}, "9 rows for 4 slabs"),
        (pattern_geometry(), {"mesh": "1x2", "refine": {"quantities": ["tilt"]}}, "tilt in refine"),
        (
            replace(hologram_geometry(), beam=Beam(1e-10, focus_distance_m=1e-3)),
            {"way_to_detector": "angular_spectrum"},
            "Holograms of a cone beam",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(geometry, recipe, words):
    with pytest.raises(PlanError, match=words):
        plan_of(geometry, **recipe)


@pytest.mark.parametrize("regime", ["far_field", "near_field"])
def test_ptychography_at_one_angle_is_weighed_by_the_light_and_has_modes(regime):
    plan = plan_of(pattern_geometry(angles=1, regime=regime))
    assert (plan.fit.optimiser, plan.probe_modes, plan.modes_by_validation) == ("weighted", 3, True)
    asked = plan_of(pattern_geometry(angles=1, regime=regime), probe_modes=3)
    assert (asked.probe_modes, asked.modes_by_validation) == (3, False)
    kept = plan_of(pattern_geometry(angles=1, regime=regime), refine_probe=False)
    assert (kept.fit.optimiser, kept.probe_modes) == ("weighted", 1)
    assert plan_of(pattern_geometry(regime=regime)).fit.optimiser == "nesterov"


@pytest.mark.parametrize("lanes", [None, 1, 3])
def test_a_step_of_weighted_descent_is_of_four_views_or_more(lanes):
    plan = plan_of(pattern_geometry(angles=1), batches_per_step=lanes)
    assert 4 <= plan.lanes * plan.fit.batch_views <= 6


def test_a_sample_that_turns_is_not_weighed_by_light():
    with pytest.raises(PlanError, match="weighted"):
        plan_of(pattern_geometry(), optimiser="weighted")


@pytest.mark.parametrize(("quantity", "epoch"), [("positions", 1), ("slice_spacing", 9)])
def test_slices_move_apart_when_there_is_something_in_them(quantity, epoch):
    recipe = {"depth_um": 0.04, "slices": 3, "epochs": 32, "refine": {"quantities": [quantity]}}
    assert plan_of(pattern_geometry(angles=1), **recipe).fit.refinement.from_epoch == epoch
