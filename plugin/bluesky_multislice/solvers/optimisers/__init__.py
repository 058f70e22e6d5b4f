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
    FusedStep,
    ObjectOptimiser,
    weighted_momentum,
)

__all__ = [
    "WEIGHTED_LENGTH",
    "Adam",
    "Descent",
    "FusedStep",
    "Moments",
    "Nesterov",
    "ObjectOptimiser",
    "gradient_of",
    "weighted_momentum",
    "with_prefix",
    "without_prefix",
]
