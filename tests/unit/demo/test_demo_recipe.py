"""How many ranks the demo asks for; the whole of it runs in tests/system/test_demo.py."""

import pytest
from emulated_accelerators import emulate
from small_scan import blank, hologram_geometry

from bluesky_multislice.demo.demo import demo_recipe
from bluesky_multislice.planning import make_plan


@pytest.mark.parametrize(("gpus", "ranks", "device"), [(0, 2, "cpu"), (1, 1, "gpu"), (2, 2, "gpu"), (4, 2, "gpu")])
@pytest.mark.parametrize("propagation", ["multislice", "projection"])
def test_the_demo_asks_for_no_more_ranks_than_there_are_gpus(monkeypatch, gpus, ranks, device, propagation):
    emulate(monkeypatch, *gpus * [80 * 10**9])
    plan = make_plan(demo_recipe(propagation), blank(hologram_geometry(n=16, angles=16)))
    assert (plan.ranks, plan.device, plan.propagation) == (ranks, device, propagation)
