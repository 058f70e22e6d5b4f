"""Far-field scans of one angle with nothing known of the probe: what the defaults make of them.

Start it: ``PYTHONPATH=tests OMP_NUM_THREADS=1 python tests/benchmarks/far_field_benchmark.py [case] ...``. Frames come
from a simulation of its own (``far_field_scan``). The table has the correlation with the object where the beam went,
constant, ramp and shift taken out, the R-factors of fitted and held-back frames, and the time.
"""

import sys
import time

import numpy as np
import torch
from far_field_scan import WAVELENGTH_M, FarFieldScan

from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct

CASES = {
    "2 depths of focus": {},
    "1 depth of focus": {"depths": 1.0, "positions": 250},
    "4 depths of focus": {"depths": 4.0, "step": 0.12},
    "focus downstream": {"depths": -2.0},
    "in focus": {"depths": 0.0, "pupil": 6.0, "step": 0.2, "positions": 200},
    "mirrors": {"lens": "mirrors", "depths": 2.5},
    "mirrors, in focus": {"lens": "mirrors", "depths": 0.0, "pupil": 7.0, "step": 0.2, "positions": 200},
    "3 rad": {"phase": 3.0},
    "0.5 rad, 1e7 photons": {"phase": 0.5, "photons": 1e7},
    "1e5 photons": {"photons": 1e5},
    "1e8 photons, 1.5 rad": {"photons": 1e8, "phase": 1.5},
    "three modes": {"modes": 3},
    "beam stop, dead pixels": {"stop": True},
    "stop, modes, 2 rad": {
        "stop": True,
        "modes": 2,
        "depths": -1.5,
        "phase": 2.0,
        "photons": 1e7,
        "step": 0.2,
    },
    "sparse": {"step": 0.25, "positions": 100},
    "dense": {"step": 0.1, "positions": 300},
    "128²": {"detector": 128, "pupil": 18.0, "depths": 3.0},
    "128², mirrors, 2 rad": {
        "detector": 128,
        "pupil": 22.0,
        "depths": -2.0,
        "positions": 200,
        "lens": "mirrors",
        "phase": 2.0,
    },
}


def measure(name: str) -> None:
    """Reconstruct, and print a row of the table."""
    simulated = FarFieldScan(**CASES[name])
    scan = simulated.scan(focus_known=False)
    start = time.monotonic()
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    with join_mesh("cpu") as mesh:
        solution = reconstruct(scan, plan, mesh).solution
    seconds = time.monotonic() - start
    wavenumber = 2 * np.pi / WAVELENGTH_M
    phase, absorption = (
        wavenumber * plan.grid.thickness_m * part[0].double().numpy() for part in (solution.delta, solution.beta)
    )
    like = simulated.likeness(np.exp(-1j * phase - absorption), plan.grid.center_m[1:])
    print(f"{name:26}{like:8.3f}{solution.r_factor:9.4f}{solution.held_back_r_factor:9.4f}{seconds:7.0f} s", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'':26}{'like':>8}{'R':>9}{'held':>9}")
    for case in sys.argv[1:] or CASES:
        measure(case)
