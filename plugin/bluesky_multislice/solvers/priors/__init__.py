"""What is assumed of a volume: regularisers, bounds and the support."""

from bluesky_multislice.solvers.priors.regularisers import (
    NO_WEIGHTS,
    Bounds,
    Priors,
    Weights,
    add_gradient_of_penalty,
    bound,
    noise_of_vacuum,
    weights_of_a_voxel,
    weights_of_slab,
)
from bluesky_multislice.solvers.priors.support import cylinder_support

__all__ = [
    "NO_WEIGHTS",
    "Bounds",
    "Priors",
    "Weights",
    "add_gradient_of_penalty",
    "bound",
    "cylinder_support",
    "noise_of_vacuum",
    "weights_of_a_voxel",
    "weights_of_slab",
]
