"""Phantoms and a simulated beamline. The beamline needs the extra ``demo``: import it as ``simulation.beamline``."""

from bluesky_multislice.simulation.phantoms import Sample, demo_sample

__all__ = ["Sample", "demo_sample"]
