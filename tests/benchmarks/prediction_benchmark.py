"""Time of an epoch as ``multislice plan`` predicts it beside that of a fit, on one rank and thread.

``OMP_NUM_THREADS=1 python tests/benchmarks/prediction_benchmark.py PROFILE.json``: processor time of the second epoch,
to which other programs on the machine add little.
"""

import sys
import time
from pathlib import Path

import numpy as np
from mesh_benchmark import PIXEL_M, patterns, prepared

from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan, predict_cost, read_profile
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import fit


def holograms(size: int, angles: int) -> Scan:
    """Return holograms of noise."""
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(0.5e-9),
        detector=Detector((size, size), (PIXEL_M, PIXEL_M), "near_field"),
        distance_m=np.full(angles, 30e-9),
        angle_rad=np.arange(angles) * np.pi / angles,
        position_m=np.zeros((angles, 2)),
    )
    frames = np.random.default_rng(0).poisson(20, (angles, size, size)).astype(np.float32)
    return Scan(geometry, Frames(frames))


def compare(name: str, scan: Scan, **recipe: object) -> None:
    """Print a scan's predicted and seen seconds an epoch."""
    plan = make_plan(Recipe(ranks=1, device="cpu", slices=16, epochs=2, **recipe), scan)
    profile = read_profile(Path(sys.argv[1]))
    cost, times = predict_cost(plan, scan.geometry, cuda=False, profile=profile), []
    with join_mesh("cpu") as mesh:
        unknowns, sets, _ = prepared(scan, plan, mesh)
        fit(unknowns, *sets, plan.fit, mesh, lambda epoch: times.append(time.process_time()))
    predicted, seen = cost.seconds.total, times[1] - times[0]
    print(f"{name:50}{predicted:8.2f} s{seen:8.2f} s{100 * (predicted / seen - 1):+6.0f} %", flush=True)


if __name__ == "__main__":
    compare("36 patterns of 64² at 4 angles, 128³, 16 slices", patterns(128, 64, 4, 3))
    compare("12 holograms of 128², 128³, 16 slices", holograms(128, 12), start="empty", find_axis=False)
