"""Recipe and scan → everything the reconstruction needs to know, before anything is allocated."""

from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.planner import make_plan
from bluesky_multislice.planning.sampling import window_margin
from bluesky_multislice.planning.stages import thin_plan, with_probe_light

__all__ = ["Machine", "Plan", "make_plan", "thin_plan", "window_margin", "with_probe_light"]
