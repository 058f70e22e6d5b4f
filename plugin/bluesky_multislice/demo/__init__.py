"""The demo: the main job on a simulated beamline, with real servers."""

from bluesky_multislice.demo.demo import run_demo
from bluesky_multislice.demo.processes import ServiceError
from bluesky_multislice.demo.services import Services, serve

__all__ = ["ServiceError", "Services", "run_demo", "serve"]
