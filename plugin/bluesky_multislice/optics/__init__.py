"""Wave optics as pure functions of tensors; signs and units in ``conventions``."""

from bluesky_multislice.optics.detection import far_field, near_field, shift_transfer
from bluesky_multislice.optics.finite_difference import finite_difference
from bluesky_multislice.optics.multislice import multislice
from bluesky_multislice.optics.projection import projection
from bluesky_multislice.optics.propagation import Kernel, apply_transfer, propagate, propagator
from bluesky_multislice.optics.rotation import rotate
from bluesky_multislice.optics.transmission import transmission
from bluesky_multislice.optics.windows import cut_windows

PROPAGATIONS = {
    "multislice": multislice,
    "finite-difference": finite_difference,
    "projection": projection,
}
"""Name of a propagation, as a recipe knows it → its function of (wave, δ, β); all take the same keywords."""

__all__ = [
    "PROPAGATIONS",
    "Kernel",
    "apply_transfer",
    "cut_windows",
    "far_field",
    "finite_difference",
    "multislice",
    "near_field",
    "projection",
    "propagate",
    "propagator",
    "rotate",
    "shift_transfer",
    "transmission",
]
