"""Time of an epoch as ``multislice plan`` predicts it beside that of fits, on one rank and on two.

``OMP_NUM_THREADS=1 python tests/benchmarks/prediction_benchmark.py PROFILE.json``: cases of ``mesh_benchmark.py``, the
median of three epochs after the first. Needs a machine of its own, as the profile does.
"""

import statistics
import sys
from pathlib import Path

from mesh_benchmark import Job, planned

from bluesky_multislice.planning import predict_cost, read_profile

WHAT = {
    "exchange": "324 patterns of 32² at 4 angles, 16 slices",
    "rate": "1728 patterns of 64² at 12 angles, 20 slices",
    "steps": "the same, steps of 137 views",
    "holograms": "24 holograms of 128², 16 slices",
}


if __name__ == "__main__":
    profile = read_profile(Path(sys.argv[1]))
    parts = ("slices", "batches", "turns", "steps", "exchange", "total")
    print(f"{'128³ voxels':48}{'mesh':6}" + "".join(f"{part:>10}" for part in parts) + f"{'seen':>10}{'off':>8}")
    for case, what in WHAT.items():
        for mesh in ("1x1", "2x1", "1x2"):
            scan, plan = planned(case, mesh)
            cost = predict_cost(plan, scan.geometry, accelerator=False, profile=profile)
            job = Job(case, mesh)
            # The first one measures its step, too.
            job.epoch()
            seen = statistics.median(job.epoch() for _ in range(3))
            job.end()
            seconds = "".join(f"{getattr(cost.seconds, part):10.2f}" for part in parts)
            print(f"{what:48}{mesh:6}{seconds}{seen:10.2f}{100 * (cost.seconds.total / seen - 1):+6.0f} %", flush=True)
