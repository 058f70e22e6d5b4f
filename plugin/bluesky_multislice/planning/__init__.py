"""Recipe and scan → everything the reconstruction needs to know, before anything is allocated."""

from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.planner import make_plan
from bluesky_multislice.planning.sampling import window_margin

__all__ = ["Plan", "make_plan", "window_margin"]
