"""The quantities that can be refined: their units, steps and bounds, and what of them no frame depends on."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bluesky_multislice.measurement import depth_of_field_m
from bluesky_multislice.models import ForwardModel

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

_INDEPENDENT = 1e-6
"""Relative strength below which a change is a combination of others."""


@dataclass(frozen=True, eq=False)
class Refined:
    """One quantity as differences from the scan.

    Attributes:
        values: in its unit, of any shape.
        unit: one unit in SI, or one for each of the values.
        step: longest step of the optimiser, in its unit.
        bounds: least and largest value, in its unit.
        gauge: for each column (y, x) of the values (row, column) an orthonormal basis (row, change) of changes that no
            frame depends on; empty where there are none.
        of_views: whether a value belongs to the frames of a view or an angle alone.
    """

    values: Tensor
    unit: float | Tensor
    step: float
    bounds: tuple[float, float]
    gauge: tuple[Tensor, ...] = ()
    of_views: bool = False

    @property
    def difference(self) -> Tensor:
        """The values in SI."""
        return self.values * self.unit

    @torch.no_grad()
    def tidy(self) -> None:
        """Take out changes that no frame depends on, and bring values that went too far back to the bound."""
        if self.gauge:
            columns = self.values.view(len(self.values), -1).unbind(1)
            for column, basis in zip(columns, self.gauge, strict=True):
                column -= basis @ (basis.T @ column)
        self.values.clamp_(*self.bounds)


@dataclass(frozen=True)
class _Rule:
    """Step and planned bound of a quantity, in its unit, which signs it has, and whether values are of a view alone."""

    step: float
    bound: float
    signed: bool = True
    of_views: bool = False


PIXELS_OF_THE_VOLUME: tuple[Quantity, ...] = ("positions", "axis_shift", "distance_shift")
"""Quantities that share a bound, in pixels of the volume."""

_RULES: dict[Quantity, _Rule] = {
    # Pixels of the volume.
    "positions": _Rule(0.05, 2, of_views=True),
    "axis_shift": _Rule(0.05, 2, of_views=True),
    # Parts of the intensity, the distance, the slice's thickness.
    "intensity": _Rule(0.005, 0.5, of_views=True),
    "distance": _Rule(0.001, 0.1),
    "slice_spacing": _Rule(0.005, 0.5),
    # Pixels of the volume, at the frames' edge where they are magnified or turned.
    "distance_shift": _Rule(0.05, 2),
    "distance_magnification": _Rule(0.05, 10),
    "distance_rotation": _Rule(0.05, 10),
    # Depths of field.
    "defocus": _Rule(0.05, 20),
    # Turns by which the edge of the volume moves by a pixel.
    "angle": _Rule(0.05, 5, of_views=True),
    "tilt": _Rule(0.05, 20),
    # Mean intensity of the frames.
    "background": _Rule(0.001, 1, signed=False),
    "background_map": _Rule(0.001, 1, signed=False),
}


def planned_bound(name: Quantity) -> float:
    """Return the most that a quantity may differ from the scan unless a person says otherwise, in its unit."""
    return _RULES[name].bound


def make_quantity(
    name: Quantity, model: ForwardModel, *, bound: float, probe_refined: bool, device: torch.device
) -> Refined:
    """Return a quantity at no difference from the scan.

    Args:
        name: which.
        model: the forward model.
        bound: most that it may differ from the scan, in its unit.
        probe_refined: whether the probe moves too, so that it can take over changes of position and intensity.
        device: where the values are kept.
    """
    rule = _RULES[name]
    shape, unit = _shape_and_unit(name, model)
    return Refined(
        values=torch.zeros(shape, device=device),
        unit=unit.to(device, torch.float32) if isinstance(unit, Tensor) else unit,
        step=rule.step,
        bounds=(-bound if rule.signed else 0.0, bound),
        gauge=tuple(basis.to(device, torch.float32) for basis in _gauge(name, model, probe_refined)),
        of_views=rule.of_views,
    )


def _shape_and_unit(name: Quantity, model: ForwardModel) -> tuple[tuple[int, ...], float | Tensor]:
    """Return the shape of the values, and one unit in SI."""
    angles, distances_m = len(model.angles_rad), torch.as_tensor(model.effective_distances_m)
    pixel_m, turn_rad, edge = model.pixel_m[1], 2 / max(model.grid.shape), 2 / max(model.frame)
    return {
        "positions": ((len(model.angle_of), 2), pixel_m),
        "axis_shift": ((angles, 2), pixel_m),
        "intensity": ((angles,), 1.0),
        # Parts of where it is out of focus, where a lens images a plane in the sample.
        "distance": ((len(distances_m),), distances_m.abs().clamp(min=depth_of_field_m(pixel_m, model.wavelength_m))),
        "distance_shift": ((len(distances_m), 2), pixel_m),
        "distance_magnification": ((len(distances_m),), edge),
        "distance_rotation": ((len(distances_m),), edge),
        "defocus": ((), depth_of_field_m(pixel_m, model.wavelength_m)),
        "angle": ((angles,), turn_rad),
        "tilt": ((2,), turn_rad),
        "slice_spacing": ((), torch.tensor(model.slice_thickness_m)),
        "background": ((), 1.0),
        "background_map": (model.frame, 1.0),
    }[name]


def _gauge(name: Quantity, model: ForwardModel, probe_refined: bool) -> tuple[Tensor, ...]:
    """Return for each column of the values an orthonormal basis (row, change) of changes that no frame depends on.

    Positions (y, x) that all move along y move the volume; those that move along x with the cosine and the sine of the
    angle do so, too. In the far field all can move along x where the probe moves the other way. A probe takes over an
    intensity that all angles share, and a volume an angle. A volume that is moved, larger or turned takes over what all
    distances share: the first one is what the others are measured against.
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
    """Return an orthonormal basis (row, change) of what the columns span; at one angle two of them are the same."""
    basis, strength, _ = torch.linalg.svd(changes, full_matrices=False)
    return basis[:, strength > _INDEPENDENT * strength[0]]
