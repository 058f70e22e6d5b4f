"""Thick phantoms from one hologram at each of 48 angles: thin-sample start, projection, plain Adam and the plan.

Start it on two cores: ``PYTHONPATH=tests:tests/physics OMP_NUM_THREADS=1 torchrun --nproc-per-node=2
tests/benchmarks/holographic_tomography_benchmark.py FOLDER [recipe.toml]``. FOLDER keeps the simulated holograms, which
take a minute; they are made where they do not exist. A recipe overrules what is measured. Times are of the wall and, in
brackets, the processor's of the rank that had most.
"""

import sys
import time
from pathlib import Path

import numpy as np
from thick_hologram import Hologram
from thick_phantom import fourier_shell_correlation

from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import Mesh, end_process, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import make_recipe, read_recipe
from bluesky_multislice.reconstruction import reconstruct

PHANTOMS = {
    "weaker": Hologram(bodies=205, radii=(0.035, 0.10)),
    "stronger": Hologram(wavelength=1.0, distance=100, delta=8e-3, bodies=330, radii=(0.035, 0.10), seed=5),
}
PLAIN = {"optimiser": "adam", "total_variation": 0.0, "start": "empty", "find_axis": False, "slices": 16}
EXACT = {"way_to_detector": "angular_spectrum", "interpolation": "cubic", "point_spread_pixels": 0.29}
"""As the frames were simulated: the way behind the sample, details of few voxels that turn, pixels that take a mean."""
SHARP = {"momentum": 0.97, "total_variation": 0.0003, "total_variation_first": 3.0, "total_variation_floor": 0.3}
"""For a sample of bodies with edges: smooth at first, hardly at the end."""
CASES = {
    "thin sample": {"epochs": 1, "step": 1e-9},
    "projection, Adam": {**PLAIN, "propagation": "projection", "epochs": 40},
    "multislice, Adam": {**PLAIN, "epochs": 40},
    "projection": {"propagation": "projection"},
    "multislice": {},
    "projection, exact way": {**EXACT, "propagation": "projection"},
    "multislice, exact way": {**EXACT, **SHARP, "slices": 20, "epochs": 60},
}
NOISY = {"multislice, 1e4 photons": {"smoothing_by_held_back": True}}


def measure(name: str, scan: Scan, truth: np.ndarray, recipe: dict, mesh: Mesh) -> float | None:
    """Reconstruct, print a row of the table and return the misfit of the frames held back."""
    plan = make_plan(make_recipe({**recipe, "ranks": mesh.size}, origin="the benchmark"), scan)
    start, used = time.monotonic(), time.process_time()
    result = reconstruct(scan, plan, mesh)
    seconds, used = time.monotonic() - start, mesh.largest(time.process_time() - used)
    solution = result.solution
    held_back = min(epoch.held_back_loss or np.inf for epoch in solution.history)
    if mesh.rank == 0:
        delta = solution.delta.cpu().numpy()
        error = float(np.linalg.norm(delta - truth) / np.linalg.norm(truth))
        alike, shells = np.corrcoef(delta.ravel(), truth.ravel())[0, 1], fourier_shell_correlation(delta, truth)
        print(
            f"{name:26}{error:8.4f}{alike:8.4f}{shells:8.3f}{held_back:11.2e}{seconds:7.0f} s ({used:3.0f} s)  "
            f"epoch {solution.best_epoch} of {len(solution.history)}, {solution.status}; {result.start}",
            flush=True,
        )
    return held_back


def load_frames(path: Path, phantom: Hologram, mesh: Mesh) -> np.ndarray:
    """Return the expected holograms, simulated by rank 0 where there are none yet."""
    if not path.exists() and mesh.rank == 0:
        np.save(path, phantom.frames())
    mesh.largest(0)
    return np.load(path)


def main(folder: Path, recipe: dict) -> None:
    """Print the tables."""
    with join_mesh("cpu") as mesh:
        for name, phantom in PHANTOMS.items():
            frames = load_frames(folder / f"{name}.npy", phantom, mesh)
            if mesh.rank == 0:
                print(f"\n{name}: λ {phantom.wavelength} nm, δ ≤ {phantom.delta}, {phantom.distance} nm")
                print(f"{'':26}{'error':>8}{'corr.':>8}{'FSC':>8}{'held back':>11}{'time':>9}")
            truth, clean, noisy = phantom.truth(), phantom.scan(frames), phantom.scan(frames, 1e4)
            misfits = {case: measure(case, clean, truth, CASES[case] | recipe, mesh) for case in CASES}
            for case, chosen in NOISY.items():
                measure(case, noisy, truth, chosen | recipe, mesh)
            for way in ("", ", exact way") if mesh.rank == 0 else ():
                ratio = (misfits[f"projection{way}"] or np.nan) / (misfits[f"multislice{way}"] or np.nan)
                print(f"held-back misfit of projection over multislice's{way}: {ratio:.1f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), read_recipe(Path(sys.argv[2])) if len(sys.argv) > 2 else {})
    end_process(0)
