"""Quantities that a fit can refine: the table behind the recipe's options and the refinement.

Every quantity is a difference from the scan's values. To add one: its name and row here, and its effect on the
forward model in ``solvers.refinement.quantities``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Quantity = Literal[
    "positions",
    "axis_shift",
    "intensity",
    "distance",
    "distance_shift",
    "distance_magnification",
    "distance_rotation",
    "defocus",
    "angle",
    "tilt",
    "slice_spacing",
    "background",
    "background_map",
]

Scheduled = Quantity | Literal["probe", "probe_variations"]
"""What has a schedule of its own."""


@dataclass(frozen=True)
class RefinedQuantityRow:
    """One refined quantity.

    Attributes:
        unit: kind of the unit of bound and step.
        measured: the unit in words, as in "Bound in pixels of the volume".
        bound: planned largest difference from the scan, in the unit.
        step: longest step of the optimiser in the first epoch, in the unit.
        per: what has a value of its own.
        signed: whether differences may be negative.
        shares_bound: whether the recipe's ``furthest_pixels`` replaces ``bound``.
    """

    unit: Literal["pixels", "fraction", "depths_of_field"]
    measured: str
    bound: float
    step: float
    per: Literal["view", "angle", "distance", "pixel", "scan"]
    signed: bool = True
    shares_bound: bool = False

    @property
    def per_view(self) -> bool:
        """Whether each value affects the frames of a single view or angle only."""
        return self.per in ("view", "angle")


REFINED_QUANTITIES: Mapping[Quantity, RefinedQuantityRow] = {
    "positions": RefinedQuantityRow("pixels", "in pixels of the volume", 2, 0.05, "view", shares_bound=True),
    "axis_shift": RefinedQuantityRow("pixels", "in pixels of the volume", 2, 0.05, "angle", shares_bound=True),
    "intensity": RefinedQuantityRow("fraction", "relative to the intensity", 0.5, 0.005, "angle"),
    # A fraction of the defocus, if a lens images a plane inside the sample.
    "distance": RefinedQuantityRow("fraction", "relative to the distance", 0.1, 0.001, "distance"),
    "distance_shift": RefinedQuantityRow("pixels", "in pixels of the volume", 2, 0.05, "distance", shares_bound=True),
    "distance_magnification": RefinedQuantityRow("pixels", "in pixels at the frame's edge", 10, 0.05, "distance"),
    "distance_rotation": RefinedQuantityRow("pixels", "in pixels at the frame's edge", 10, 0.05, "distance"),
    "defocus": RefinedQuantityRow("depths_of_field", "in depths of field", 20, 0.05, "scan"),
    "angle": RefinedQuantityRow("pixels", "in pixels at the volume's edge", 5, 0.05, "angle"),
    "tilt": RefinedQuantityRow("pixels", "in pixels at the volume's edge", 20, 0.05, "scan"),
    "slice_spacing": RefinedQuantityRow("fraction", "relative to the spacing", 0.5, 0.005, "scan"),
    "background": RefinedQuantityRow(
        "fraction", "relative to the frames' mean intensity", 1, 0.001, "scan", signed=False
    ),
    "background_map": RefinedQuantityRow(
        "fraction", "relative to the frames' mean intensity", 1, 0.001, "pixel", signed=False
    ),
}
