"""When ranks compute a tile of every frame each, and what that is said to take."""

import json
from dataclasses import replace

import numpy as np
import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.measurement import Beam
from bluesky_multislice.planning import Machine, Plan, exchange_of, identity, make_plan
from bluesky_multislice.planning.cost import memory_parts
from bluesky_multislice.recipe import Recipe

FLAT = {"depth_um": 0.02, "slices": 2}
"""A volume so thin that halos are small."""


def plan_of(geometry, memory_bytes=10**13, **recipe):
    settings = {"mesh": "1x2", "device": "cpu", **FLAT} | recipe
    return make_plan(Recipe(**settings), blank(geometry), Machine(64, 64, memory_bytes, accelerator=False))


def views_of_one_angle(n=256, views=16):
    return replace(hologram_geometry(n, views), angle_rad=np.zeros(views))


def test_ranks_without_whole_frames_to_compute_at_once_compute_a_tile_each():
    plan = plan_of(hologram_geometry(n=256))
    assert plan.frame_tiles is not None
    assert plan.frame_tiles.ends == (0, 128, 256)
    # 30 nm to the detector and 10 nm from the entrance to the axis: λL/Δx² of 20 pixels, 4 times the root of it.
    assert plan.frame_tiles.halo == 18
    assert "every rank of an angle group computes 128 rows of each frame, and 18 more" in plan.notes[-1]
    assert Plan.from_dict(json.loads(json.dumps(plan.as_dict()))) == plan


@pytest.mark.parametrize(("recipe", "halo"), [({"accuracy": 0.01}, 22), ({"point_spread_pixels": 2.0}, 26)])
def test_the_halo_follows_the_accuracy_and_what_blurs_the_frames(recipe, halo):
    assert plan_of(hologram_geometry(n=256), **recipe).frame_tiles.halo == halo


def test_a_blurring_source_widens_the_halo():
    geometry = replace(hologram_geometry(n=256), beam=Beam(0.5e-9, divergence_rad=0.1))
    # σ of three pixels on the detector.
    assert plan_of(geometry).frame_tiles.halo == 30


@pytest.mark.parametrize(
    ("geometry", "recipe"),
    [
        (hologram_geometry(n=64), {}),  # a tile with its halos is nearly as high as the window
        (views_of_one_angle(), {"batch_views": 4}),  # every rank has whole frames to compute
        (replace(hologram_geometry(n=256), technique="ptychography"), {}),  # windows overlap
        (hologram_geometry(n=256), {"mesh": "2x1"}),
        (hologram_geometry(n=256), {"propagation": "finite-difference"}),
        (hologram_geometry(n=256), {"first_propagation": "finite-difference"}),
        (hologram_geometry(n=256), {"fidelity": "intensity"}),
        (replace(hologram_geometry(n=256), beam=Beam(0.5e-9, tuple(np.linspace(1e-3, 1.1e-3, 8)))), {}),
        (
            replace(hologram_geometry(n=256), distance_m=np.repeat([30e-9, 31e-9], 4)),
            {"refine": {"quantities": ["distance_magnification"]}},
        ),
    ],
)
def test_whole_frames_are_computed_otherwise(geometry, recipe):
    assert plan_of(geometry, **recipe).frame_tiles is None


def test_tiles_are_taken_where_whole_frames_do_not_fit():
    geometry, recipe = views_of_one_angle(512), {"depth_um": 0.1, "slices": 64, "batch_views": 8}
    whole = plan_of(geometry, **recipe)
    again = replace(whole, gradient="recomputed")
    assert whole.frame_tiles is None
    needed = 2 * memory_parts(again, geometry, accelerator=False).total
    tiled = plan_of(geometry, int(0.95 * needed), **recipe)
    assert tiled.frame_tiles is not None
    assert 2 * tiled.memory_bytes < 0.95 * needed
    batches = [memory_parts(plan, geometry, accelerator=False).batch for plan in (again, tiled)]
    assert batches[1] < 0.8 * batches[0]


def test_tiles_of_coarser_fits_are_the_same_part_of_the_frame():
    plan = plan_of(hologram_geometry(n=264), coarse_levels=2, mesh="1x3")
    assert plan.frame_tiles.ends == (0, 88, 176, 264)
    assert [stage.frame_tiles.ends for stage in plan.earlier] == [(0, 22, 44, 66), (0, 44, 88, 132)]
    assert plan_of(hologram_geometry(n=264), coarse_levels=2, mesh="1x4").frame_tiles.ends == (0, 68, 136, 204, 264)


def test_a_fit_in_tiles_goes_on_on_another_mesh():
    scan = blank(hologram_geometry(n=256))
    tiled, whole = (make_plan(Recipe(mesh=mesh, device="cpu", **FLAT), scan) for mesh in ("1x2", "1x1"))
    assert tiled.frame_tiles
    assert identity(scan, tiled) == identity(scan, whole)


def test_rows_around_tiles_travel_there_and_back():
    geometry = hologram_geometry(n=256)
    plan = plan_of(geometry, held_back_every=0)
    window = 256 + 2 * plan.margin
    (_, end), (start, _) = plan.windows(window)
    # Beyond the frame is vacuum; of the margin's rows none is stored.
    outside = (end - plan.margin - 128) + (128 - (start - plan.margin))
    row = 2 * plan.slices * plan.grid.shape[2] * 4
    assert exchange_of(plan, geometry).rows == 2 * 8 * outside * row
    whole = exchange_of(replace(plan, frame_tiles=None), geometry).rows
    assert whole == 2 * 8 * 128 * row


def test_frames_from_disk_are_held_by_their_rows():
    geometry = hologram_geometry(n=256)
    plan = plan_of(geometry, frames_in="disk")
    whole, tiled = (
        memory_parts(each, geometry, accelerator=False).frames for each in (replace(plan, frame_tiles=None), plan)
    )
    assert whole == 2 * plan.fit.batch_views * 4 * 256**2
    assert tiled == whole / 2
