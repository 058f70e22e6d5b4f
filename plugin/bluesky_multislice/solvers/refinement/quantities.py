"""Values of refined quantities, their units in SI, and their gauge freedom.

``measurement.REFINED_QUANTITIES`` declares their bounds and steps.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bluesky_multislice.measurement import REFINED_QUANTITIES, Quantity, depth_of_field_m
from bluesky_multislice.models import ForwardModel

_INDEPENDENT = 1e-6
"""Relative singular value below which a change depends linearly on others."""


@dataclass(frozen=True, eq=False)
class RefinedQuantity:
    """A refined quantity, as differences from the scan's values.

    Attributes:
        values: differences in the quantity's unit, of any shape.
        unit: the unit in SI, or one unit per value.
        step: longest step of the optimiser, in the unit.
        bounds: smallest and largest value, in the unit.
        gauge: for each column (y, x) of the values (row, column), an orthonormal basis (row, change) of changes that
            leave all frames unchanged; empty if there are none.
        per_view: whether each value affects the frames of a single view or angle only.
    """

    values: Tensor
    unit: float | Tensor
    step: float
    bounds: tuple[float, float]
    gauge: tuple[Tensor, ...] = ()
    per_view: bool = False

    @property
    def difference(self) -> Tensor:
        """The differences in SI."""
        return self.values * self.unit

    @torch.no_grad()
    def start_from(self, difference: Tensor) -> "RefinedQuantity":
        """Set the values in place; return the quantity with bounds that include them.

        Args:
            difference: difference from the scan in SI. One value is set from the sum of several, such as the added
                thickness of all slices.
        """
        unit = torch.as_tensor(self.unit, device=self.values.device)
        if self.values.ndim:
            values = difference.to(self.values).reshape(self.values.shape) / unit
        else:
            values = difference.to(self.values).sum() / unit.sum()
        self.values.copy_(values)
        least, most = torch.aminmax(self.values.detach())
        return replace(self, bounds=(min(self.bounds[0], float(least)), max(self.bounds[1], float(most))))

    @torch.no_grad()
    def apply_constraints(self) -> None:
        """Remove changes that leave all frames unchanged, and clip the values to their bounds."""
        if self.gauge:
            columns = self.values.view(len(self.values), -1).unbind(1)
            for column, basis in zip(columns, self.gauge, strict=True):
                column -= basis @ (basis.T @ column)
        self.values.clamp_(*self.bounds)


def make_quantity(
    name: Quantity, model: ForwardModel, *, bound: float, probe_refined: bool, device: torch.device
) -> RefinedQuantity:
    """Return a quantity with zero difference from the scan.

    Args:
        name: name of the quantity.
        model: the forward model.
        bound: largest difference from the scan, in the unit.
        probe_refined: whether the probe is also fitted, so that it can compensate changes of position and intensity.
        device: device of the values.
    """
    row = REFINED_QUANTITIES[name]
    shape, unit = _shape_and_unit(name, model)
    return RefinedQuantity(
        values=torch.zeros(shape, device=device),
        unit=unit.to(device, torch.float32) if isinstance(unit, Tensor) else unit,
        step=row.step,
        bounds=(-bound if row.signed else 0.0, bound),
        gauge=tuple(basis.to(device, torch.float32) for basis in _gauge(name, model, probe_refined)),
        per_view=row.per_view,
    )


def _shape_and_unit(name: Quantity, model: ForwardModel) -> tuple[tuple[int, ...], float | Tensor]:
    """Return the shape of the values and their unit in SI."""
    angles, distances_m = len(model.angles_rad), torch.as_tensor(model.effective_distances_m)
    pixel_m, rotation_rad, edge = model.pixel_m[1], 2 / max(model.grid.shape), 2 / max(model.frame)
    return {
        "positions": ((len(model.angle_of), 2), pixel_m),
        "axis_shift": ((angles, 2), pixel_m),
        "intensity": ((angles,), 1.0),
        # Fractions of the defocus, if a lens images a plane inside the sample.
        "distance": ((len(distances_m),), distances_m.abs().clamp(min=depth_of_field_m(pixel_m, model.wavelength_m))),
        "distance_shift": ((len(distances_m), 2), pixel_m),
        "distance_magnification": ((len(distances_m),), edge),
        "distance_rotation": ((len(distances_m),), edge),
        "defocus": ((), depth_of_field_m(pixel_m, model.wavelength_m)),
        "angle": ((angles,), rotation_rad),
        "tilt": ((2,), rotation_rad),
        "slice_spacing": ((), torch.tensor(model.slice_thickness_m)),
        "background": ((), 1.0),
        "background_map": (model.frame, 1.0),
    }[name]


def _gauge(name: Quantity, model: ForwardModel, probe_refined: bool) -> tuple[Tensor, ...]:
    """Return for each column of the values an orthonormal basis (row, change) of changes without effect on frames.

    A common shift of all positions along y is a shift of the volume. So is a shift along x that varies with the cosine
    or sine of the angle. In the far field, a probe can compensate a common shift along x. A probe can also compensate a
    common intensity, and the volume a common angle. A shifted, scaled or rotated volume compensates a change common to
    all distances, so the first distance is the reference.
    """
    angles = torch.as_tensor(model.angles_rad)
    same = torch.ones(len(angles), 1)
    if name in ("positions", "axis_shift"):
        moves = [angles.cos(), angles.sin()]
        if model.far_field and probe_refined:
            moves.append(torch.ones_like(angles))
        rows = torch.as_tensor(model.angle_of) if name == "positions" else torch.arange(len(angles))
        return _orthonormal(same[rows]), _orthonormal(torch.stack(moves, 1)[rows])
    if name in ("distance_shift", "distance_magnification", "distance_rotation"):
        first = torch.eye(len(model.effective_distances_m))[:, :1]
        return (first, first) if name == "distance_shift" else (first,)
    return (_orthonormal(same),) if name == "angle" or (name == "intensity" and probe_refined) else ()


def _orthonormal(changes: Tensor) -> Tensor:
    """Return an orthonormal basis (row, change) of the columns' span; at a single angle two columns are equal."""
    basis, strength, _ = torch.linalg.svd(changes, full_matrices=False)
    return basis[:, strength > _INDEPENDENT * strength[0]]
