"""Wave optics as pure functions of tensors; signs and units in ``conventions``."""

from bluesky_multislice.optics.detection import far_field, near_field, shift_transfer
from bluesky_multislice.optics.finite_difference import finite_difference, finite_difference_through
from bluesky_multislice.optics.multislice import multislice, multislice_through
from bluesky_multislice.optics.projection import projection, projection_through
from bluesky_multislice.optics.propagation import Kernel, apply_transfer, propagate, propagator
from bluesky_multislice.optics.rotation import rotate
from bluesky_multislice.optics.transmission import transmission
from bluesky_multislice.optics.windows import cut_windows

THROUGH = {
    "multislice": multislice_through,
    "finite-difference": finite_difference_through,
    "projection": projection_through,
}
"""Name of a propagation → its function of (wave, transmissions (z, view, y, x)): the names that a recipe knows."""

__all__ = [
    "THROUGH",
    "Kernel",
    "apply_transfer",
    "cut_windows",
    "far_field",
    "finite_difference",
    "finite_difference_through",
    "multislice",
    "multislice_through",
    "near_field",
    "projection",
    "projection_through",
    "propagate",
    "propagator",
    "rotate",
    "shift_transfer",
    "transmission",
]
