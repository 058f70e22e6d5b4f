"""Steps of few views and large steps beside each other: seconds to the same misfit of validation frames.

``OMP_NUM_THREADS=1 python tests/benchmarks/large_step_benchmark.py [64] [128] [256] [photons=1e6]``: ptychography whose
frames are a quarter of the volume wide, so that the volume is large beside the views of a step, as in scans of 1024³.
Small steps have at most 32 views of an angle from each of two lanes, large ones all views of several angles; both fits
do an epoch in turn. Seconds are those of the processor, which other programs on the machine do not lengthen.
"""

import sys
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from bluesky_multislice.fits_in_turn import load_data
from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.scan import Scan
from bluesky_multislice.simulation.phantoms import convergent_probe, spheres_and_shells
from bluesky_multislice.solvers import Epoch, Unknowns, fit, split_views

VOXEL_M, DETECTOR_PIXEL_M, WAVELENGTH_M = 1e-9, 55e-6, 0.2e-9
POSITIONS, SLICES = 13, 4
ANGLES = {64: 60, 128: 90, 256: 120}
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
    model = ForwardModel(geometry, grid, slices=4 * SLICES)
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
    small = make_plan(Recipe(ranks=1, device="cpu", slices=SLICES, batch_views=32, batches_per_step=2), scan)
    large = make_plan(Recipe(ranks=1, device="cpu", slices=SLICES), scan)
    return {"small steps": small, "large steps": large}


def followed(scan: Scan, plan: Plan, epochs: int) -> Course:
    """Fit, and return how the validation frames are explained after each epoch."""
    settings = replace(plan.fit, epochs=epochs)
    scale = float(scan.frames.read(np.arange(0, scan.geometry.views, 97)).mean())
    data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=scale, mesh=MESH)
    model, course = plan.forward_model(scan.geometry), Course()
    unknowns = Unknowns(model, torch.from_numpy(scan.probe) / scale**0.5, settings, MESH.device)
    began = time.process_time()

    def note(epoch: Epoch) -> None:
        course.misfit.append(epoch.held_back_loss or np.nan)
        course.seconds.append(time.process_time() - began)
        print(f"    epoch {epoch.epoch:3}: {course.misfit[-1]:.4e} after {course.seconds[-1]:7.1f} s", flush=True)

    fit(unknowns, data.fitted, data.held_back, settings, MESH, note)
    return course
