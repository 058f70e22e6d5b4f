"""Reconstructions of at most a second, one per recipe feature, and a comparison of two solutions.

Patterns have no vacuum prior but where it is what is asked for: its slope jumps where δ is zero, so that a voxel which
rounds to zero, or just not, goes another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from small_scan import VOXEL_M, blank, hologram_geometry, pattern_scan

from bluesky_multislice.measurement import Beam, Frames, Scan
from bluesky_multislice.parallel import Checkpoints, Mesh
from bluesky_multislice.planning import Plan, identity, make_plan
from bluesky_multislice.recipe import make_recipe
from bluesky_multislice.reconstruction import reconstruct, simulate_frames
from bluesky_multislice.simulation.phantoms import spheres_and_shells
from bluesky_multislice.solvers import Interrupted, Journal, Solution

N = 16


def _seen(geometry, probe=None) -> Scan:
    """Return the scan of some balls."""
    delta = spheres_and_shells(N, delta=0.04, count=12, seed=1)
    frames = simulate_frames(
        Scan(geometry, blank(geometry).frames, probe), delta, 0.1 * delta, voxel_size_m=(VOXEL_M,) * 3
    )
    return Scan(geometry, Frames(_with_noise(np.array(list(frames)))), probe)


def _with_noise(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return frames with noise; without it, gradients in vacuum would be pure rounding errors."""
    noise = np.random.default_rng(0).normal(size=frames.shape).astype(np.float32)
    return frames * (1 + 0.05 * noise).clip(min=0)


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
    """Return 9 patterns per angle of diffuse illumination, with windows smaller than the volume.

    It reaches every pixel: where none did before there is an object, rounding would tell the way of the first step.
    """
    scan, delta = pattern_scan(angles)
    noise = np.random.default_rng(1).normal(size=(2, *scan.probe.shape)).astype(np.float32)
    diffuse = scan.probe * (1 + 0.05 * (noise[0] + 1j * noise[1]))
    y, x = np.divmod(np.arange(25), 5)
    kept = np.flatnonzero(np.tile((y % 2 == 0) & (x % 2 == 0), angles))
    geometry = scan.geometry.select(kept)
    lit = Scan(geometry, blank(geometry).frames, diffuse)
    frames = np.array(list(simulate_frames(lit, delta, 0.05 * delta, voxel_size_m=(VOXEL_M,) * 3)))
    return Scan(geometry, Frames(_with_noise(frames)), diffuse if probe else None)


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
    """The settings of a small reconstruction.

    Attributes:
        scan: name of the scan.
        recipe: what differs from the shared recipe.
        gradient: which waves the gradient keeps; None: as planned.
        stops: after so many looks the fit is stopped, and goes on from its checkpoint, until it is done; 0: never.
    """

    scan: str
    recipe: Mapping[str, Any] = field(default_factory=dict)
    gradient: str | None = None
    stops: int = 0

    def plan(self, **shared: Any) -> Plan:
        """Return the plan, made for CPUs, independent of the device that runs it."""
        recipe = {"device": "cpu", "epochs": 2, "batch_views": 1, "find_axis": False, "held_back_every": 3}
        if self.scan.startswith("patterns"):
            recipe |= {"batch_views": 3, "l1": 0.0, "slices": 4}
            recipe |= {"depth_um": 0.02} if "one angle" in self.scan else {"optimiser": "nesterov"}
        plan = make_plan(make_recipe(recipe | self.recipe | shared, origin="test"), scan_of(self.scan))
        return plan if self.gradient is None else replace(plan, gradient=self.gradient)

    def solve(self, plan: Plan, mesh: Mesh) -> Solution:
        """Return the solution on the ranks of a mesh."""
        plan = _on(plan, mesh.device.type)
        if not self.stops:
            return reconstruct(scan_of(self.scan), plan, mesh).solution
        with TemporaryDirectory() as folder:
            while True:
                solution = self._until_stopped(replace(plan, checkpoint_every=1), mesh, Path(folder))
                if solution is not None:
                    return solution

    def _until_stopped(self, plan: Plan, mesh: Mesh, folder: Path) -> Solution | None:
        checkpoints = Checkpoints(folder, mesh, identity(scan_of(self.scan), plan))
        looks = count(1)
        journal = Journal(
            checkpoints, mesh, every=1, stop_reason=lambda: "SIGTERM" if next(looks) >= self.stops else ""
        )
        try:
            return reconstruct(scan_of(self.scan), plan, mesh, journal=journal).solution
        except Interrupted:
            return None
        finally:
            checkpoints.close()


def _on(plan: Plan, device: str) -> Plan:
    return replace(plan, device=device, earlier=tuple(_on(earlier, device) for earlier in plan.earlier))


def refining(*quantities: str, from_epoch: int = 1) -> dict[str, Any]:
    """Return the part of a recipe for refined quantities.

    Positions of patterns wait for an object: none tells from another while it is empty.
    """
    return {"refine": {"quantities": list(quantities), "from_epoch": from_epoch}}


_PATTERNS, _ONE_ANGLE = "patterns", "patterns of one angle"

CASES = {
    # Holograms: every view sees whole planes.
    "holograms": SmallFit("holograms"),
    "recomputed waves": SmallFit("holograms", gradient="recomputed"),
    "waves from checkpoints": SmallFit("holograms", gradient="checkpointed"),
    "light leaves at the edges": SmallFit("holograms", {"edges": "outgoing"}),
    "slices as many as planes": SmallFit("holograms", {"slices": 16, "depth_um": 0.016}),
    "tiled-multislice": SmallFit("holograms", {"propagation": "tiled-multislice"}),
    "projection": SmallFit("holograms", {"propagation": "projection"}),
    "finite-difference": SmallFit("holograms", {"propagation": "finite-difference"}),
    "finite-difference-wide": SmallFit("holograms", {"propagation": "finite-difference-wide"}),
    "cubic": SmallFit("holograms", {"interpolation": "cubic"}),
    "fourier": SmallFit("holograms", {"interpolation": "fourier"}),
    "adam": SmallFit("holograms", {"optimiser": "adam"}),
    "polished": SmallFit("holograms", {"polish": 2}),
    "bounds on β/δ": SmallFit("holograms", {"beta_over_delta_min": 0.05, "beta_over_delta_max": 0.2}),
    "no absorption": SmallFit("holograms", {"absorption": False}),
    "refined frames": SmallFit("holograms", refining("positions", "axis_shift", "intensity", "distance", "background")),
    "refined distances": SmallFit(
        "holograms at two distances",
        refining("distance", "distance_shift", "distance_magnification", "distance_rotation", "background_map"),
    ),
    "aligned": SmallFit("holograms", {"align": True}),
    "refined angles": SmallFit("holograms", refining("angle", "tilt")),
    "refined angles, cubic": SmallFit("holograms", {"interpolation": "cubic", **refining("angle", "tilt")}),
    "refined angles, fourier": SmallFit("holograms", {"interpolation": "fourier", **refining("angle", "tilt")}),
    "refined probe": SmallFit("holograms", {"refine_probe": True}),
    "coarse first": SmallFit("holograms", {"coarse_levels": 1, "start": "empty"}),
    "thin first": SmallFit("holograms", {"first_propagation": "projection"}),
    "smoothing by frames held back": SmallFit("holograms", {"smoothing_by_held_back": True}),
    "two halves": SmallFit("holograms", {"shell_correlation": True}),
    "point spread": SmallFit("holograms", {"point_spread_pixels": 1.0, "oversampling": 2}),
    "saturated": SmallFit("holograms with a saturated pixel", {"saturated": "mask"}),
    "frames on disk": SmallFit("holograms", {"frames_in": "disk"}),
    "poisson": SmallFit("holograms", {"fidelity": "poisson"}),
    "intensity": SmallFit("holograms", {"fidelity": "intensity"}),
    "smoothness along z": SmallFit("holograms", {"smoothness_z": 0.01, "l1": 0.01}),
    "cylinder": SmallFit("holograms", {"support": "cylinder"}),
    "joint illumination": SmallFit("holograms with a flat", {"illumination": "joint"}),
    "images": SmallFit("images"),
    "resumed": SmallFit("holograms", {"epochs": 4}, stops=3),
    "holograms of one angle": SmallFit("holograms of one angle"),
    "spacing of holograms": SmallFit(
        "holograms of one angle", {"depth_um": 0.012, "slices": 3, **refining("slice_spacing")}
    ),
    # Patterns: every view sees a window.
    "patterns": SmallFit(_PATTERNS),
    "patterns, vacuum": SmallFit(_PATTERNS, {"l1": None, "epochs": 1}),
    "patterns without a probe": SmallFit("patterns without a probe"),
    "patterns, modes": SmallFit(_PATTERNS, {"probe_modes": 2}),
    "patterns, adam": SmallFit(_PATTERNS, {"optimiser": "adam", **refining("positions", from_epoch=2)}),
    "patterns, recomputed": SmallFit(_PATTERNS, gradient="recomputed"),
    "patterns, checkpoints": SmallFit(_PATTERNS, gradient="checkpointed"),
    "patterns, tiled": SmallFit(_PATTERNS, {"propagation": "tiled-multislice"}),
    "patterns, projection": SmallFit(_PATTERNS, {"propagation": "projection"}),
    "patterns, finite-difference": SmallFit(_PATTERNS, {"propagation": "finite-difference"}),
    "patterns of one angle": SmallFit(_ONE_ANGLE),
    "variations": SmallFit(_ONE_ANGLE, {"probe_variations": 2, "epochs": 4}),
    "one angle, resumed": SmallFit(_ONE_ANGLE, {"epochs": 4, "probe_variations": 2}, stops=3),
    "one angle, adam": SmallFit(_ONE_ANGLE, {"optimiser": "adam"}),
    "one angle, distance": SmallFit(_ONE_ANGLE, refining("distance", "positions", from_epoch=2)),
    # An empty object tells no spacing from another: the first epoch's steps would follow rounding.
    "one angle, spacing": SmallFit(_ONE_ANGLE, refining("slice_spacing", "defocus", from_epoch=2)),
    "one angle, tiled": SmallFit(_ONE_ANGLE, {"propagation": "tiled-multislice"}),
    "one angle, projection": SmallFit(_ONE_ANGLE, {"propagation": "projection", "slices": None, "depth_um": None}),
    "one angle, finite-difference": SmallFit(_ONE_ANGLE, {"propagation": "finite-difference"}),
    "one angle, wide": SmallFit(_ONE_ANGLE, {"propagation": "finite-difference-wide"}),
}
"""By name."""
