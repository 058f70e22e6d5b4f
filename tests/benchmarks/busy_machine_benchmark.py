"""A job with a thread for every core, alone and beside another program, by how long its threads wait awake.

``python tests/benchmarks/busy_machine_benchmark.py``: 128³ voxels from 60 holograms, two epochs, seconds with the job's
start. Threads spin for so many turns (``GOMP_SPINCOUNT``) before they sleep: 300,000 where nobody says otherwise.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from memory_benchmark import holograms

from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.environment import SPIN_COUNT
from bluesky_multislice.jobs.schedulers import Allocation, LocalScheduler, run_and_wait
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

BUSY = "while True: pass"


def seconds_of(spins: str) -> float:
    """Return the seconds of the job."""
    os.environ["GOMP_SPINCOUNT"] = spins
    with tempfile.TemporaryDirectory() as place:
        folder = JobFolder(Path(place)).create()
        write_scan(folder.frames, holograms(128, 60))
        recipe = Recipe(device="cpu", epochs=2, ranks=1)
        plan = make_plan(recipe, read_scan(folder.frames))
        folder.write_job(recipe=recipe.model_dump(mode="json"), plan=plan.as_dict(), origin={})
        start, allocation = time.monotonic(), Allocation(ranks_per_node=1)
        run_and_wait(LocalScheduler(), folder, name="busy", allocation=allocation, on_progress=lambda record: None)
        return time.monotonic() - start


if __name__ == "__main__":
    print(f"{'spins':>10}{'alone, s':>12}{'beside another':>18}")
    for spins in (SPIN_COUNT, "300000"):
        alone = seconds_of(spins)
        with subprocess.Popen([sys.executable, "-c", BUSY]) as other:
            try:
                beside = seconds_of(spins)
            finally:
                other.kill()
        print(f"{spins:>10}{alone:12.0f}{beside:18.0f}", flush=True)
