"""How long writing checkpoints keeps a fit from computing: one after every epoch, beside the same fit without any.

``OMP_NUM_THREADS=1 python tests/benchmarks/checkpoint_benchmark.py [pixels [angles [epochs]]]``; on two ranks
``torchrun --standalone --nproc-per-node 2 tests/benchmarks/checkpoint_benchmark.py``.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory_benchmark import holograms

from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import Checkpoints, Mesh, end_process, join_mesh
from bluesky_multislice.planning import Plan, identity, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Journal


def epoch_seconds(scan: Scan, plan: Plan, mesh: Mesh, folder: Path | None) -> tuple[list[float], list[float], int]:
    """Return the length of each epoch but the first, how long each checkpoint blocked it, and the bytes of the last."""
    began, blocked, sizes, checkpoints, journal = [], [], [0], None, None
    if folder is not None:
        checkpoints = Checkpoints(folder, mesh, identity(scan, plan))
        journal = Journal(checkpoints, mesh, every=1, stop_reason=lambda: "")

    def report(epoch: object) -> None:
        began.append(time.monotonic())
        if checkpoints and folder and len(began) > 1:
            blocked.append(checkpoints.blocked_s)
            sizes.append(max((_bytes(place) for place in folder.glob("0*")), default=0))

    reconstruct(scan, plan, mesh, report, journal)
    if checkpoints:
        checkpoints.close()
    return np.diff(began).tolist(), blocked, max(sizes)


def _bytes(place: Path) -> int:
    try:
        return sum(path.stat().st_size for path in place.iterdir())
    except FileNotFoundError:  # it has just been removed, or has got its name
        return 0


def main(pixels: int = 128, angles: int = 60, epochs: int = 6) -> None:
    """Print the figures."""
    scan = holograms(pixels, angles)
    with join_mesh("cpu") as mesh, tempfile.TemporaryDirectory() as place:
        recipe = Recipe(ranks=mesh.size, device="cpu", epochs=epochs, start="empty", find_axis=False)
        plan = make_plan(recipe, scan)
        # The first rank's folder is everybody's.
        folder = Path(place) if mesh.size == 1 else Path(tempfile.gettempdir()) / f"checkpoints-of-{mesh.size}-ranks"
        without, _, _ = epoch_seconds(scan, plan, mesh, None)
        written, blocked, size = epoch_seconds(scan, plan, mesh, folder)
        Checkpoints(folder, mesh, identity(scan, plan)).clear()
        if mesh.rank == 0:
            plain, beside, stopped = (float(np.median(times)) for times in (without, written, blocked))
            print(f"{pixels}³ voxels, {angles} views, {mesh.size} ranks; checkpoints of {size / 2**20:.0f} MiB")
            print(f"{'an epoch without, s':32}{plain:10.2f}")
            print(f"{'an epoch beside its checkpoint, s':32}{beside:10.2f}")
            print(f"{'blocked by one, s':32}{stopped:10.3f}")
            print(f"{'blocked, part of an epoch':32}{stopped / plain:10.1%}   to reach: below 5 %")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
    end_process(0)
