"""Recipe and scan → everything the reconstruction needs to know, before anything is allocated."""

from bluesky_multislice.planning.exchange import Exchange, exchange_of
from bluesky_multislice.planning.identity import identity
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.planner import make_plan
from bluesky_multislice.planning.sampling import window_margin
from bluesky_multislice.planning.stages import thin_plan, with_probe_light
from bluesky_multislice.planning.start import angles_tell_axis

__all__ = [
    "Exchange",
    "Machine",
    "Plan",
    "angles_tell_axis",
    "exchange_of",
    "identity",
    "make_plan",
    "thin_plan",
    "window_margin",
    "with_probe_light",
]
