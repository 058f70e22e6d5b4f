"""Wave optics as pure functions of tensors; signs and units in ``conventions``."""

import functools

from bluesky_multislice.optics.affine import affine
from bluesky_multislice.optics.detection import (
    bin_pixels,
    blur,
    far_field,
    far_field_of_modes,
    kernel_transfer,
    near_field,
    point_spread_transfer,
    shift_transfer,
)
from bluesky_multislice.optics.finite_difference import finite_difference
from bluesky_multislice.optics.graphs import bytes_of_graphs
from bluesky_multislice.optics.host import DeferredScalar, on_device
from bluesky_multislice.optics.interpolation import bytes_per_rotation, cached_rotations
from bluesky_multislice.optics.kernels import KernelChoice, Part, kernels_in_use, use_kernels, uses_fused
from bluesky_multislice.optics.layout import in_memory_order, with_y_last
from bluesky_multislice.optics.margins import absorbing_margin
from bluesky_multislice.optics.multislice import multislice
from bluesky_multislice.optics.projection import projection
from bluesky_multislice.optics.propagation import (
    apply_transfer,
    largest_decay_rate,
    phase_rate,
    propagate,
    propagator,
    sampled_band,
)
from bluesky_multislice.optics.rotation import planes_of_slices, rotate
from bluesky_multislice.optics.sampling import halo_pixels, thickest_slice_m
from bluesky_multislice.optics.split_step import Gradient
from bluesky_multislice.optics.tiles import tiled_multislice
from bluesky_multislice.optics.transmission import transmission

PROPAGATIONS = {
    "multislice": multislice,
    "tiled-multislice": tiled_multislice,
    "finite-difference": finite_difference,
    "finite-difference-wide": functools.partial(finite_difference, stencil="wide"),
    "projection": projection,
}
"""Name of a propagation in the recipe → function of (wave, δ, β); all take the same keywords."""

BETWEEN_MID_PLANES = frozenset({"multislice", "projection"})
"""Propagations that can leave the two outer half steps to the caller (``between_mid_planes``)."""

__all__ = [
    "BETWEEN_MID_PLANES",
    "PROPAGATIONS",
    "DeferredScalar",
    "Gradient",
    "KernelChoice",
    "Part",
    "absorbing_margin",
    "affine",
    "apply_transfer",
    "bin_pixels",
    "blur",
    "bytes_of_graphs",
    "bytes_per_rotation",
    "cached_rotations",
    "far_field",
    "far_field_of_modes",
    "finite_difference",
    "halo_pixels",
    "in_memory_order",
    "kernel_transfer",
    "kernels_in_use",
    "largest_decay_rate",
    "multislice",
    "near_field",
    "on_device",
    "phase_rate",
    "planes_of_slices",
    "point_spread_transfer",
    "projection",
    "propagate",
    "propagator",
    "rotate",
    "sampled_band",
    "shift_transfer",
    "thickest_slice_m",
    "tiled_multislice",
    "transmission",
    "use_kernels",
    "uses_fused",
    "with_y_last",
]
