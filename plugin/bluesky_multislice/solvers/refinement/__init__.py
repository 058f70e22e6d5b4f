"""Refinement together with the object: quantities of the geometry, the probe and its variations."""

from bluesky_multislice.solvers.refinement.probe import ProbeOptimiser
from bluesky_multislice.solvers.refinement.probe_variation import ProbeVariation
from bluesky_multislice.solvers.refinement.refinement import Refinement
from bluesky_multislice.solvers.refinement.schedule import RefinementSettings, Schedule

__all__ = [
    "ProbeOptimiser",
    "ProbeVariation",
    "Refinement",
    "RefinementSettings",
    "Schedule",
]
