"""A thick phantom from its diffraction patterns, the probe known: multislice beside projection.

Start it on two cores: ``PYTHONPATH=tests/physics OMP_NUM_THREADS=1 torchrun --nproc-per-node=2
tests/benchmarks/ptychographic_tomography_benchmark.py FRAMES.npy [recipe.toml]``. FRAMES.npy keeps the simulated
patterns, which take minutes; it is made where it does not exist. A recipe overrules what is measured.
"""

import sys
import time
from pathlib import Path

import numpy as np
from thick_phantom import Phantom, fourier_shell_correlation

from bluesky_multislice.parallel import Mesh, end_process, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import make_recipe, read_recipe
from bluesky_multislice.reconstruct import reconstruct
from bluesky_multislice.scan import Scan

CASES = {
    "projection": {"propagation": "projection"},
    "multislice, Adam": {"optimiser": "adam"},
    "multislice": {},
    "multislice, total variation": {"total_variation": 0.003},
}
PHOTONS = (1e8, 1e5)


def measure(name: str, scan: Scan, truth: np.ndarray, recipe: dict, mesh: Mesh) -> None:
    """Reconstruct, and print a row of the table."""
    chosen = {"refine_probe": False, "held_back_every": 20, **CASES[name], **recipe, "ranks": mesh.size}
    plan = make_plan(make_recipe(chosen, origin="the benchmark"), scan)
    start = time.monotonic()
    solution = reconstruct(scan, plan, mesh).solution
    seconds = time.monotonic() - start
    if mesh.rank:
        return
    delta = solution.delta.numpy()
    error = float(np.linalg.norm(delta - truth) / np.linalg.norm(truth))
    held_back = solution.history[solution.best_epoch - 1].held_back_loss
    print(
        f"{name:28}{error:8.4f}{fourier_shell_correlation(delta, truth):8.3f}{held_back:11.2e}"
        f"{seconds:7.0f} s  epoch {solution.best_epoch} of {len(solution.history)}, {solution.status}",
        flush=True,
    )


def load_frames(path: Path, phantom: Phantom, mesh: Mesh) -> np.ndarray:
    """Return the expected patterns, simulated by rank 0 where there are none yet."""
    if not path.exists() and mesh.rank == 0:
        np.save(path, phantom.frames())
    mesh.largest(0)
    return np.load(path)


def main(path: Path, recipe: dict) -> None:
    """Print the table."""
    phantom = Phantom()
    truth = phantom.truth()
    with join_mesh("cpu") as mesh:
        frames = load_frames(path, phantom, mesh)
        for photons in PHOTONS:
            if mesh.rank == 0:
                print(f"\n{photons:g} photons a pattern, {mesh.size} ranks")
                print(f"{'':28}{'error':>8}{'FSC':>8}{'held back':>11}{'time':>9}")
            for name in CASES:
                measure(name, phantom.scan(frames, photons), truth, recipe, mesh)


if __name__ == "__main__":
    main(Path(sys.argv[1]), read_recipe(Path(sys.argv[2])) if len(sys.argv) > 2 else {})
    end_process(0)
