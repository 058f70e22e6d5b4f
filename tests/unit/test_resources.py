"""Where frames are kept, and what a machine has room for."""

import os
from dataclasses import replace

import numpy as np
import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning import Machine, make_plan
from bluesky_multislice.planning.memory import memory_parts
from bluesky_multislice.recipe import Recipe


def plan_of(geometry, **recipe):
    return make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), blank(geometry))


@pytest.fixture
def machine(monkeypatch):
    """Gives the machine another size of memory."""

    def of(room_bytes):
        sizes = {"SC_PHYS_PAGES": room_bytes // os.sysconf("SC_PAGE_SIZE")}
        size = os.sysconf
        monkeypatch.setattr(os, "sysconf", lambda name: sizes.get(name) or size(name))

    return of


@pytest.mark.parametrize(("part", "place"), [(7, "disk"), (9, "memory")])
def test_frames_stay_on_disk_where_they_take_more_than_an_eighth_of_the_memory(machine, part, place):
    geometry = hologram_geometry(n=16, angles=200_000)
    machine(part * 200_000 * 16 * 16 * 4)
    assert plan_of(geometry).frames_in == place


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_recipe_says_where_frames_are_kept(place):
    assert plan_of(hologram_geometry(), frames_in=place).frames_in == place


FRAME = 128 * 128 * 4
"""Bytes of a frame."""


def in_frames_memory(frames, views=12, mesh="1x1", **recipe):
    """A plan with room for so many frames of 128² a rank."""
    settings = {"mesh": mesh, "device": "cpu", "batch_views": 2, "frames_memory_gib": frames * FRAME / 2**30}
    return make_plan(
        Recipe(**(settings | recipe)), blank(several_views(128, views)), Machine(8, 8, 10**11, accelerator=False)
    )


@pytest.mark.parametrize(
    ("frames", "mesh", "place", "ahead"),
    [
        (12, "1x1", "memory", 1),
        (11.9, "1x1", "disk", 1),
        (4, "1x1", "disk", 1),
        (3.9, "1x1", "disk", 0),
        (2, "1x1", "disk", 0),
        (6, "2x1", "memory", 1),
        (5.9, "2x1", "disk", 1),
        (7, "1x2", "memory", 1),
    ],
)
def test_frames_take_no_more_memory_than_a_recipe_lets_them(frames, mesh, place, ahead):
    plan = in_frames_memory(frames, mesh=mesh)
    assert (plan.frames_in, plan.batches_ahead) == (place, ahead)
    assert memory_parts(plan, several_views(128, 12), accelerator=False).frames <= frames * FRAME


def test_copies_for_coarser_fits_count():
    assert in_frames_memory(14.9, coarse_levels=1).frames_in == "disk"
    assert in_frames_memory(15, coarse_levels=1).frames_in == "memory"


def test_the_first_volume_is_made_of_as_many_angles_at_a_time_as_frames_may_take():
    """Phases and holograms of 12 angles, or of some beside a hologram of one and the frame that it is made of."""
    geometry = hologram_geometry(128, 12)
    for frames, place, at_once in ((24, "memory", None), (23.9, "disk", 21), (9, "disk", 7), (2, "disk", 1)):
        settings = {"frames_memory_gib": frames * FRAME / 2**30, "batch_views": 2, "ranks": 1, "slices": 2}
        plan = make_plan(Recipe(**settings), blank(geometry), Machine(8, 8, 10**11, accelerator=False))
        assert (plan.frames_in, plan.angles_at_once) == (place, at_once)


def test_a_batch_that_does_not_fit_into_the_memory_of_frames_is_refused():
    with pytest.raises(PlanError, match=r"2 frames of 0.0625 MiB, and frames_memory_gib .* fewer batch_views"):
        in_frames_memory(1.9)
    assert in_frames_memory(1.9, batch_views=1).frames_in == "disk"


def test_frames_that_are_to_be_in_memory_must_fit_there():
    with pytest.raises(PlanError, match=r"0.75 MiB of a rank, and frames_memory_gib .* leave frames_in out"):
        in_frames_memory(11, frames_in="memory")


def test_a_tile_of_a_frame_takes_a_part_of_its_memory():
    """Each of two ranks keeps half of every frame."""
    for frames, place in ((6, "memory"), (5.9, "disk")):
        settings = {"frames_memory_gib": frames * FRAME / 2**30, "mesh": "1x2", "depth_um": 0.002}
        geometry = hologram_geometry(128, 12, distance_m=5e-9)
        plan = make_plan(Recipe(start="empty", **settings), blank(geometry), Machine(8, 8, 10**11, accelerator=False))
        assert plan.frame_tiles
        assert plan.frames_in == place


def several_views(n, views=8):
    geometry = hologram_geometry(n=n, angles=views)
    return replace(geometry, angle_rad=np.zeros(views))


def test_memory_counts_what_a_choice_keeps():
    geometry = hologram_geometry(n=256, angles=60)
    usual = plan_of(geometry)
    volume = 4 * 256**3
    more = {
        # Three and one of them are what a checkpoint is written from.
        "without absorption": ({"absorption": False}, -7 * volume),
        "Adam": ({"optimiser": "adam"}, 2 * volume),
        "polish": ({"polish": 1}, 14 * volume),
        "halves": ({"shell_correlation": True}, 3 * volume),
    }
    for recipe, bytes_more in more.values():
        assert plan_of(geometry, **recipe).memory_bytes - usual.memory_bytes == pytest.approx(bytes_more, abs=1)
    held, streamed = (plan_of(geometry, frames_in=place).memory_bytes for place in ("memory", "disk"))
    assert held - streamed == (60 - 2 * usual.fit.batch_views) * 4 * 256**2


def test_a_field_that_does_not_fit_as_a_whole_is_cut_into_tiles(machine):
    recipe = {"depth_um": 0.2, "slices": 40, "batch_views": 8, "edges": "outgoing"}
    machine(10**12)
    whole = plan_of(several_views(2048), **recipe)
    assert (whole.propagation, whole.gradient, whole.tiles) == ("multislice", "stored", (1, 1))
    machine(int(0.7 * whole.memory_bytes))
    tiled = plan_of(several_views(2048), **recipe)
    assert (tiled.propagation, tiled.gradient) == ("tiled-multislice", "recomputed")
    assert min(tiled.tiles) > 1
    assert tiled.options["halo"] == tiled.halo > 0
    assert tiled.memory_bytes < 0.7 * whole.memory_bytes
    assert f"it is cut into {tiled.tiles[0]} by {tiled.tiles[1]} tiles" in tiled.notes[-1]


def on_site(views=64, ranks_per_node=4, memory_bytes=10**11, accelerator=False, **recipe):
    site = Machine(2 * ranks_per_node, ranks_per_node, memory_bytes, accelerator)
    return make_plan(Recipe(**recipe), blank(hologram_geometry(n=16, angles=views)), site)


@pytest.mark.parametrize(("views", "ranks"), [(12, 3), (24, 4), (64, 8)])
def test_a_plan_for_other_nodes_fills_their_places_evenly(views, ranks):
    assert on_site(views=views).ranks == ranks


def test_a_plan_for_other_nodes_takes_their_device_and_memory():
    assert on_site().device == "cpu"
    assert on_site(accelerator=True).device == "cuda"
    assert on_site(accelerator=True, device="cpu").device == "cpu"
    with pytest.raises(PlanError, match="none on the site's nodes"):
        on_site(device="cuda")
    with pytest.raises(PlanError, match="for 4 ranks on a device"):
        on_site(memory_bytes=10**9)
    assert on_site(memory_bytes=10**9, accelerator=True).ranks == 8
