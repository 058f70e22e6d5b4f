"""Steps of few views and large steps beside each other: seconds to the same misfit of validation frames.

``OMP_NUM_THREADS=1 python tests/benchmarks/large_step_benchmark.py [64] [128] [256]``: patterns a quarter of the volume
wide, so that the volume is large beside the views of a step, as in scans of 1024³. Small steps take at most 32 views of
an angle from each of two lanes, large ones all views of several angles, as planned. Each fit goes on to its last epoch;
what counts is when it explains the validation frames as well as the small steps do at their end. Seconds are the
processor's, which other programs on the machine hardly lengthen.
"""

import sys
import time
from dataclasses import dataclass, field

import numpy as np
import torch

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, make_plan, small_steps, work_of
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.fit_sequence import load_data
from bluesky_multislice.simulation.phantoms import convergent_probe, spheres_and_shells
from bluesky_multislice.solvers import Epoch, Unknowns, fit, split_views

VOXEL_M, DETECTOR_PIXEL_M, WAVELENGTH_M = 1e-9, 55e-6, 0.2e-9
POSITIONS, SLICES = 13, 4
ANGLES = {64: 90, 128: 90, 256: 120}
PHOTONS = 1e6
MESH = Mesh(0, 1, torch.device("cpu"))


@dataclass
class Course:
    """Misfit of the validation frames after each epoch, and the processor's seconds so far."""

    misfit: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def seconds_to(self, misfit: float) -> float | None:
        """Return the seconds after which the validation frames are explained so well; None: they never are."""
        return next((spent for spent, seen in zip(self.seconds, self.misfit, strict=True) if seen <= misfit), None)


def simulated(side: int, photons: float) -> Scan:
    """Return patterns of a phantom by a model with four times as many slices as the fit has, with their noise."""
    window, angles = side // 4, ANGLES[side]
    at = np.linspace(-1, 1, POSITIONS) * (side - window) / 2 * VOXEL_M
    position_m = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    views = angles * len(position_m)
    geometry = ScanGeometry(
        technique="ptychography",
        beam=Beam(WAVELENGTH_M, focus_distance_m=window * 4e-9),
        detector=Detector((window, window), (DETECTOR_PIXEL_M, DETECTOR_PIXEL_M), "far_field"),
        distance_m=np.full(views, VOXEL_M * window * DETECTOR_PIXEL_M / WAVELENGTH_M),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, len(position_m)),
        position_m=np.tile(position_m, (angles, 1)),
    )
    focus_m = float(geometry.focus_distance_m[0])
    probe = convergent_probe(window, VOXEL_M, WAVELENGTH_M, focus_distance_m=focus_m, aperture=0.3)
    delta = torch.from_numpy(spheres_and_shells(side, delta=2e-3 * 64 / side, count=80, seed=3))
    grid = VolumeGrid((side,) * 3, (VOXEL_M,) * 3)
    model = ForwardModel(geometry, grid, ModelOptions(4 * SLICES))
    frames = np.empty((views, window, window), np.float32)
    random, per_angle = np.random.default_rng(0), len(position_m)
    with torch.no_grad():
        for angle in range(angles):
            seen = np.arange(angle * per_angle, (angle + 1) * per_angle)
            expected = model(delta, 0.05 * delta, torch.from_numpy(probe), seen)
            expected *= photons / expected.sum((-2, -1), keepdim=True).mean()
            frames[seen] = random.poisson(expected.numpy())
    return Scan(geometry, Frames(frames), (probe * np.sqrt(photons / window**2)).astype(np.complex64))


def plans(scan: Scan) -> dict[str, Plan]:
    """Return the plans that are compared, by name."""
    recipe = Recipe(ranks=1, device="cpu", slices=SLICES)
    large = make_plan(recipe, scan)
    return {"small steps": make_plan(small_steps(large, scan.geometry, recipe), scan), "large steps": large}


def followed(scan: Scan, plan: Plan) -> Course:
    """Fit, and return how the validation frames are explained after each epoch."""
    scale = float(scan.frames.read(np.arange(0, scan.geometry.views, 97)).mean())
    data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=scale, mesh=MESH)
    model, course = plan.forward_model(scan.geometry), Course()
    unknowns = Unknowns(model, torch.from_numpy(scan.probe) / scale**0.5, plan.fit, MESH.device)
    began = time.process_time()

    def note(epoch: Epoch) -> None:
        course.misfit.append(epoch.held_back_loss or np.nan)
        course.seconds.append(time.process_time() - began)

    fit(unknowns, data.fitted, data.held_back, MESH, note)
    return course


def compare(side: int) -> None:
    """Print both courses, and when each explains the validation frames as well as the small steps do at their end."""
    scan = simulated(side, PHOTONS)
    courses = {name: followed(scan, plan) for name, plan in plans(scan).items()}
    goal = courses["small steps"].misfit[-1]
    for name, plan in plans(scan).items():
        work, course = work_of(plan, scan.geometry), courses[name]
        spent = course.seconds_to(goal)
        print(
            f"{side}³, {scan.geometry.views} patterns, {name}: "
            f"{work.steps} steps, {work.most_rotations} rotations per epoch"
        )
        print("  misfit  " + " ".join(f"{1e4 * misfit:7.3f}" for misfit in course.misfit) + "  e-4")
        print("  seconds " + " ".join(f"{seconds:7.1f}" for seconds in course.seconds))
        print(f"  {1e4 * goal:.3f}e-4 after {'never' if spent is None else f'{spent:.1f} s'}", flush=True)


if __name__ == "__main__":
    for side in [int(word) for word in sys.argv[1:]] or [64, 128]:
        compare(side)
