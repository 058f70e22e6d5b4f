"""Priors of the object: regularisers, bounds and support."""

from bluesky_multislice.solvers.priors.regularisers import (
    NO_WEIGHTS,
    Bounds,
    Priors,
    Weights,
    add_gradient_of_penalty,
    apply_bounds,
    slab_weights,
    vacuum_noise_weight,
    voxel_weights,
)
from bluesky_multislice.solvers.priors.support import cylinder_support

__all__ = [
    "NO_WEIGHTS",
    "Bounds",
    "Priors",
    "Weights",
    "add_gradient_of_penalty",
    "apply_bounds",
    "cylinder_support",
    "slab_weights",
    "vacuum_noise_weight",
    "voxel_weights",
]
