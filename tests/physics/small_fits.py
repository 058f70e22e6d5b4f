"""Reconstructions that take a second or less, one for each thing that a recipe can ask for, and how far two differ.

Patterns have no vacuum prior but where it is what is asked for: its slope jumps where δ is zero, so that a voxel which
rounds to zero, or just not, goes another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from small_scan import VOXEL_M, blank, hologram_geometry, pattern_scan

from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.predict import predict_frames
from bluesky_multislice.recipe import make_recipe
from bluesky_multislice.reconstruct import reconstruct
from bluesky_multislice.scan import Scan
from bluesky_multislice.simulation.phantoms import spheres_and_shells
from bluesky_multislice.solvers import Journal, Solution

N = 16


def _seen(geometry, probe=None) -> Scan:
    """Return the scan of some balls."""
    delta = spheres_and_shells(N, delta=8e-3, count=12, seed=1)
    frames = predict_frames(Scan(geometry, blank(geometry).frames, probe), delta, 0.1 * delta, voxel_size_m=(VOXEL_M,) * 3)
    return Scan(geometry, Frames(_with_noise(np.array(list(frames)))), probe)


def _with_noise(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return frames with noise: without it, gradients in vacuum would be what rounding leaves."""
    noise = np.random.default_rng(0).normal(size=frames.shape).astype(np.float32)
    return frames * (1 + 0.02 * noise).clip(min=0)


def _holograms(distances_m=(30e-9,), angles=6, **geometry) -> Scan:
    one = replace(hologram_geometry(N, angles), beam=Beam(1e-9))
    each = len(distances_m)
    return _seen(
        replace(
            one,
            distance_m=np.tile(distances_m, angles),
            angle_rad=np.repeat(one.angle_rad, each),
            position_m=np.repeat(one.position_m, each, axis=0),
            **geometry,
        )
    )


def _patterns(angles: int, probe: bool = True) -> Scan:
    """Return 9 patterns an angle, whose windows are smaller than the volume."""
    scan, _ = pattern_scan(angles)
    y, x = np.divmod(np.arange(25), 5)
    kept = np.flatnonzero(np.tile((y % 2 == 0) & (x % 2 == 0), angles))
    return Scan(scan.geometry.select(kept), Frames(_with_noise(scan.frames.read(kept))), scan.probe if probe else None)


def _with_saturated_pixel() -> Scan:
    scan = _holograms()
    frames = scan.frames.read(np.arange(scan.geometry.views)).copy()
    frames[2, 3, 4] = 100 * frames.max()
    return replace(scan, frames=Frames(frames, saturation=float(frames.max() / 2)))


def _with_flats() -> Scan:
    scan = _holograms()
    frames = scan.frames.read(np.arange(6))
    rows, flat = np.arange(7), np.full((1, N, N), 100.0, np.float32)
    return replace(scan, frames=Frames(np.concatenate([100 * frames, flat]), rows=rows[:6], flat_rows=[6]))


SCANS = {
    "holograms": _holograms,
    "holograms at two distances": lambda: _holograms((30e-9, 45e-9)),
    "holograms of one angle": lambda: _holograms((20e-9, 25e-9, 30e-9, 40e-9, 50e-9, 60e-9), angles=1),
    "holograms with a saturated pixel": _with_saturated_pixel,
    "holograms with a flat": _with_flats,
    "images": lambda: _holograms(
        (-25e-9, 0.0, 25e-9),
        technique="microscopy",
        detector=replace(hologram_geometry(N).detector, imaged=True),
        values={"numerical_aperture": 0.25},
    ),
    "patterns": lambda: _patterns(2),
    "patterns without a probe": lambda: _patterns(2, probe=False),
    "patterns of one angle": lambda: _patterns(1),
}


@cache
def scan_of(name: str) -> Scan:
    """Return a small scan."""
    return SCANS[name]()


@dataclass(frozen=True)
class SmallFit:
    """What is reconstructed.

    Attributes:
        scan: name of the scan.
        recipe: what differs from the shared recipe.
        gradient: which waves the gradient keeps; None: as planned.
    """

    scan: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    gradient: str | None = None

    def plan(self, **shared: Any) -> Plan:
        """Return the plan, made for processors, whatever it is then carried out on."""
        recipe = {"ranks": 1, "device": "cpu", "epochs": 2, "batch_views": 1, "find_axis": False, "held_back_every": 3}
        if self.scan.startswith("patterns"):
            recipe |= {"batch_views": 3, "l1": 0.0}
            recipe |= {"optimiser": "nesterov", "slices": 4} if "one" not in self.scan else {"depth_um": 0.02, "slices": 4}
        plan = make_plan(make_recipe(recipe | self.recipe | shared, origin="test"), scan_of(self.scan))
        return plan if self.gradient is None else replace(plan, gradient=self.gradient)

    def solve(self, plan: Plan, mesh: Mesh, journal: Journal | None = None) -> Solution:
        """Return the solution on the ranks of a mesh."""
        plan = _on(plan, mesh.device.type)
        return reconstruct(scan_of(self.scan), plan, mesh, journal=journal).solution


def _on(plan: Plan, device: str) -> Plan:
    return replace(plan, device=device, earlier=tuple(_on(earlier, device) for earlier in plan.earlier))


def refining(*quantities: str) -> dict[str, Any]:
    """Return the part of a recipe that refines some quantities."""
    return {"refine": {"quantities": list(quantities)}}


def difference(one, other) -> float:
    """Return the relative difference of two tensors, wherever they are."""
    one, other = one.detach().cpu(), other.detach().cpu()
    return float((one - other).norm() / other.norm()) if other.any() else float(one.norm())


def differences(one: Solution, other: Solution) -> dict[str, float]:
    """Return the relative difference of all that two solutions hold."""
    found = {name: difference(getattr(one, name), getattr(other, name)) for name in ("delta", "beta", "probe")}
    refined = {name: difference(one.differences[name], value) for name, value in other.differences.items()}
    losses = [np.array([epoch.loss for epoch in each.history]) for each in (one, other)]
    return found | refined | {"loss": float(np.abs(losses[0] / losses[1] - 1).max())}
