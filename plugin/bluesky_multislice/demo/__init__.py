"""The demo: automatic reconstruction of scans on a simulated beamline, with real servers."""

from bluesky_multislice.demo.demo import run_demo
from bluesky_multislice.demo.processes import ServiceError
from bluesky_multislice.demo.services import Services, serve
from bluesky_multislice.demo.serving import serve_until_interrupted

__all__ = ["ServiceError", "Services", "run_demo", "serve", "serve_until_interrupted"]
