"""Where frames are kept, and what a machine has room for."""

import os

import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.planning import make_plan
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
