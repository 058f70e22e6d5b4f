"""A thick phantom from its diffraction patterns: multislice beside projection, probe and positions known and not.

Start it on two cores: ``PYTHONPATH=tests/physics OMP_NUM_THREADS=1 torchrun --nproc-per-node=2
tests/benchmarks/ptychographic_tomography_benchmark.py FRAMES.npy [recipe.toml]``. FRAMES.npy keeps the simulated
patterns, which take minutes; it is made where it does not exist. A recipe overrules what is measured.
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from thick_phantom import VOXEL_M, Phantom, fourier_shell_correlation

from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import Mesh, end_process, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import make_recipe, read_recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import split_views

CASES = {
    "projection": {"propagation": "projection"},
    "multislice, Adam": {"optimiser": "adam"},
    "multislice": {},
    "probe 30 % too wide, refined": {"refine_probe": True},
    "positions 0.5 rms off, refined": {"refine": {"quantities": ["positions"]}, "epochs": 12},
}
PHOTONS = (1e8, 1e5)


def as_guessed(name: str, phantom: Phantom, scan: Scan, photons: float) -> tuple[Scan, np.ndarray]:
    """Return the scan with what a case has wrong, and how far its positions (view, 2) are off, in voxels."""
    off = np.zeros((scan.geometry.views, 2))
    if name.startswith("probe"):
        wide = replace(phantom, aperture=1.3 * phantom.aperture).probe(0.0, pitch=1.0, width=phantom.window)
        scan = replace(scan, probe=(wide[None] * np.sqrt(photons)).astype(np.complex64))
    if name.startswith("positions"):
        off = 0.5 * np.random.default_rng(5).normal(size=off.shape).clip(-2, 2)
        moved = replace(scan.geometry, position_m=scan.geometry.position_m + off * VOXEL_M)
        scan = replace(scan, geometry=moved)
    return scan, off


def measure(name: str, phantom: Phantom, frames: np.ndarray, photons: float, recipe: dict, mesh: Mesh) -> None:
    """Reconstruct, and print a row of the table."""
    scan, off = as_guessed(name, phantom, phantom.scan(frames, photons), photons)
    chosen = {"refine_probe": False, "held_back_every": 20, **CASES[name], **recipe, "ranks": mesh.size}
    plan = make_plan(make_recipe(chosen, origin="the benchmark"), scan)
    start = time.monotonic()
    solution = reconstruct(scan, plan, mesh).solution
    seconds = time.monotonic() - start
    if mesh.rank:
        return
    truth, delta = phantom.truth(), solution.delta.cpu().numpy()
    inside = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(delta.shape, truth.shape, strict=True))
    error = float(np.linalg.norm(delta[inside] - truth) / np.linalg.norm(truth))
    correlation = fourier_shell_correlation(delta[inside], truth)
    held_back = solution.history[solution.best_epoch - 1].held_back_loss
    left = ""
    if "positions" in solution.differences:
        fitted = split_views(scan.geometry.views, plan.held_back_every)[0]
        away = solution.differences["positions"].cpu().numpy()[fitted] / VOXEL_M + off[fitted]
        left = f", positions {np.sqrt(np.mean(away**2)):.3f} voxel rms off"
    print(
        f"{name:32}{error:8.4f}{correlation:8.3f}{held_back:11.2e}"
        f"{seconds:7.0f} s  epoch {solution.best_epoch} of {len(solution.history)}, {solution.status}{left}",
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
    with join_mesh("cpu") as mesh:
        frames = load_frames(path, phantom, mesh)
        for photons in PHOTONS:
            if mesh.rank == 0:
                print(f"\n{photons:g} photons a pattern, {mesh.size} ranks")
                print(f"{'':32}{'error':>8}{'FSC':>8}{'held back':>11}{'time':>9}")
            for name in CASES:
                measure(name, phantom, frames, photons, recipe, mesh)


if __name__ == "__main__":
    main(Path(sys.argv[1]), read_recipe(Path(sys.argv[2])) if len(sys.argv) > 2 else {})
    end_process(0)
