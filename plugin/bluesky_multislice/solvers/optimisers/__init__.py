"""Optimisers of the object."""

from bluesky_multislice.solvers.optimisers.descent import (
    Adam,
    Descent,
    Moments,
    Nesterov,
    gradient_of,
    with_prefix,
    without_prefix,
)
from bluesky_multislice.solvers.optimisers.optimiser import (
    WEIGHTED_LENGTH,
    DescentSettings,
    FusedStep,
    ObjectOptimiser,
    weighted_momentum,
)

__all__ = [
    "WEIGHTED_LENGTH",
    "Adam",
    "Descent",
    "DescentSettings",
    "FusedStep",
    "Moments",
    "Nesterov",
    "ObjectOptimiser",
    "gradient_of",
    "weighted_momentum",
    "with_prefix",
    "without_prefix",
]
