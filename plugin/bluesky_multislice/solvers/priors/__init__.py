"""Priors of the object, one file each behind one registry; bounds and support."""

from bluesky_multislice.solvers.priors.bounds import Bounds, apply_bounds
from bluesky_multislice.solvers.priors.common_pass import Weights
from bluesky_multislice.solvers.priors.penalty import Penalty, Priors
from bluesky_multislice.solvers.priors.prior import Prior, Scales
from bluesky_multislice.solvers.priors.prior_registry import make_prior, prior_classes
from bluesky_multislice.solvers.priors.smoothness_z import SmoothnessZ
from bluesky_multislice.solvers.priors.sparsity import Sparsity
from bluesky_multislice.solvers.priors.support import cylinder_support
from bluesky_multislice.solvers.priors.total_variation import TotalVariation
from bluesky_multislice.solvers.priors.vacuum import Vacuum, vacuum_noise_weight

__all__ = [
    "Bounds",
    "Penalty",
    "Prior",
    "Priors",
    "Scales",
    "SmoothnessZ",
    "Sparsity",
    "TotalVariation",
    "Vacuum",
    "Weights",
    "apply_bounds",
    "cylinder_support",
    "make_prior",
    "prior_classes",
    "vacuum_noise_weight",
]
