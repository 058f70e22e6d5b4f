"""Where frames are kept, and what a machine has room for."""

import os
from dataclasses import replace

import numpy as np
import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning import Machine, make_plan
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


def on_site(views=64, ranks_per_node=4, memory_bytes=10**11, cuda=False, **recipe):
    site = Machine(2 * ranks_per_node, ranks_per_node, memory_bytes, cuda)
    return make_plan(Recipe(**recipe), blank(hologram_geometry(n=16, angles=views)), site)


@pytest.mark.parametrize(("views", "ranks"), [(12, 3), (24, 4), (64, 8)])
def test_a_plan_for_other_nodes_fills_their_places_evenly(views, ranks):
    assert on_site(views=views).ranks == ranks


def test_a_plan_for_other_nodes_takes_their_device_and_memory():
    assert on_site().device == "cpu"
    assert on_site(cuda=True).device == "cuda"
    assert on_site(cuda=True, device="cpu").device == "cpu"
    with pytest.raises(PlanError, match="none on the site's nodes"):
        on_site(device="cuda")
    with pytest.raises(PlanError, match="for 4 ranks on a device"):
        on_site(memory_bytes=10**9)
    assert on_site(memory_bytes=10**9, cuda=True).ranks == 8
