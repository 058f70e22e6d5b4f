"""What moves the object against its gradient."""

from bluesky_multislice.solvers.optimisers.descent import Adam, Descent, Moments, Nesterov, gradient_of, named, of_name
from bluesky_multislice.solvers.optimisers.optimiser import (
    WEIGHTED_LENGTH,
    ObjectOptimiser,
    OnePass,
    OptimiserName,
    weighted_momentum,
)

__all__ = [
    "WEIGHTED_LENGTH",
    "Adam",
    "Descent",
    "Moments",
    "Nesterov",
    "ObjectOptimiser",
    "OnePass",
    "OptimiserName",
    "gradient_of",
    "named",
    "of_name",
    "weighted_momentum",
]
