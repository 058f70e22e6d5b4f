"""Refinement together with the object: quantities of the geometry, the probe and its variations."""

from bluesky_multislice.solvers.refinement.probe import ProbeOptimiser
from bluesky_multislice.solvers.refinement.probe_variation import ProbeVariation
from bluesky_multislice.solvers.refinement.quantities import Quantity
from bluesky_multislice.solvers.refinement.refinement import Refinement
from bluesky_multislice.solvers.refinement.schedule import RefinementSettings, Schedule, Scheduled

__all__ = [
    "ProbeOptimiser",
    "ProbeVariation",
    "Quantity",
    "Refinement",
    "RefinementSettings",
    "Schedule",
    "Scheduled",
]
