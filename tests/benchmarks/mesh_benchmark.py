"""Ranks as a mesh of angle × slab: memory, bytes exchanged and the rate of epochs, all meshes from one run.

``python tests/benchmarks/mesh_benchmark.py [memory] [exchange] [rate] [steps] ['large steps']``: patterns of several
angles on volumes of 256³ (memory) and 128³ voxels, one thread a rank. Memory is the resident peak of a rank (VmHWM)
over what it held before the volume was made; bytes are those that ranks sent, beside the planned ones and those of
gathering strips.
"""

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bluesky_multislice.fits_in_turn import load_data
from bluesky_multislice.frames import Frames
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry
from bluesky_multislice.parallel import Mesh, Slab, end_process, join_mesh
from bluesky_multislice.planning import Plan, exchange_of, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.scan import Scan
from bluesky_multislice.solvers import Unknowns, ViewSet, fit, split_views

MESHES = ("1x1", "2x1", "1x2", "2x2", "4x1", "1x4")
TWO = "1x1 twice"
"""Two processes that know nothing of each other: cores may share what they compute with, and a host its time."""

RATES = 3 * ("1x1", TWO, "2x1", "1x2")
PIXEL_M, EPOCHS = 1e-9, 4
MIB = 2**20


def patterns(size: int, window: int, angles: int, rows: int) -> Scan:
    """Return a scan of noise: ``rows`` × ``rows`` positions over ``size`` voxels at each angle."""
    at = (np.linspace(0, size - window, rows) - (size - window) / 2) * PIXEL_M
    y, x = (part.ravel() for part in np.meshgrid(at, at, indexing="ij"))
    views = angles * rows**2
    geometry = ScanGeometry(
        technique="ptychography",
        beam=Beam(0.5e-9, focus_distance_m=2e-7),
        detector=Detector((window, window), (1e-5, 1e-5), "far_field"),
        # λ·distance / (pixels · pitch) is the pitch of the object.
        distance_m=np.full(views, PIXEL_M * window * 1e-5 / 0.5e-9),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, rows**2),
        position_m=np.tile(np.stack([y, x], axis=1), (angles, 1)),
    )
    frames = np.random.default_rng(0).poisson(20, (views, window, window)).astype(np.float32)
    return Scan(geometry, Frames(frames))


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


CASES = {"memory": (256, 64, 3, 5), "exchange": (128, 32, 4, 9), "rate": (128, 64, 12, 12), "steps": (128, 64, 12, 12)}
CASES["large steps"] = (128, 64, 6, 30)
CHOSEN = {
    # One step adds up four batches, one for each of four ranks.
    "memory": {"slices": 8, "batches_per_step": 4},
    "exchange": {"slices": 16, "batches_per_step": 4},
    # Steps as they are planned, of 46 views, and of 130 and 810, an angle's: ranks add up a volume once a step.
    "rate": {},
    "steps": {"batches_per_step": 4, "batch_views": 36},
    "large steps": {"batches_per_step": 4, "batch_views": 210},
    "holograms": {"slices": 16, "start": "empty", "find_axis": False},
}
TIMED = ("rate", "steps", "large steps")


def planned(case: str, mesh: str) -> tuple[Scan, Plan]:
    """Return the scan of a case and its plan on a mesh."""
    scan = holograms(128, 24) if case == "holograms" else patterns(*CASES[case])
    return scan, make_plan(Recipe(mesh=mesh, device="cpu", epochs=EPOCHS, **CHOSEN[case]), scan)


def prepared(scan: Scan, plan: Plan, mesh: Mesh) -> tuple[Unknowns, tuple[ViewSet, ViewSet], Slab]:
    """Return what a fit starts from on this rank."""
    data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=20.0, mesh=mesh)
    slab = Slab(mesh, plan.grid.shape[1], data.rank_of_view)
    model = plan.forward_model(scan.geometry, slab)
    probe = torch.ones((1, *model.window), dtype=torch.complex64)
    return Unknowns(model, probe, plan.fit, mesh.device), (data.fitted, data.held_back), slab


def status(name: str) -> float:
    """Return a number of MiB from what the system says of this process."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def run(case: str, mesh_name: str) -> None:
    """Fit a case on this rank, and have the first rank print what was seen of all."""
    scan, plan = planned(case, mesh_name)
    with join_mesh("cpu", plan.slabs) as mesh:
        if case == "memory":
            # Everything is loaded and compiled, and buffers have their size, before the volume is made.
            small = patterns(64, 64, 2, 2)
            short = make_plan(Recipe(mesh=mesh_name, slices=8, epochs=1, batches_per_step=4, held_back_every=0), small)
            unknowns, sets, _ = prepared(small, short, mesh)
            fit(unknowns, *sets, short.fit, mesh, lambda epoch: None)
        unknowns, sets, slab = prepared(scan, plan, mesh)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        sent, times = [slab.bytes_sent], [time.perf_counter()]

        def note(epoch: object) -> None:
            sent.append(slab.bytes_sent)
            times.append(time.perf_counter())

        fit(unknowns, *sets, plan.fit, mesh, note)
        peak = mesh.largest(status("VmHWM") - before)
        total = torch.tensor(sent[-1] - sent[-2], dtype=torch.float64)
        mesh.sum(total)
        if mesh.rank == 0:
            # The first epoch measures its step, too.
            print(f"{peak} {total.item()} {statistics.median(np.diff(times)[1:])}")


def of_mesh(case: str, mesh: str) -> tuple[float, float, float]:
    """Return peak MiB of a rank, bytes sent and seconds an epoch, as a job on the mesh has them; of two the half."""
    if mesh == TWO:
        with ThreadPoolExecutor(2) as both:
            peak, sent, seconds = map(statistics.mean, zip(*both.map(of_mesh, [case] * 2, ["1x1"] * 2), strict=True))
        return peak, sent, seconds / 2
    angles, slabs = map(int, mesh.split("x"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={angles * slabs}"]
    done = subprocess.run(
        [*command, __file__, "--rank", case, mesh],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    peak, sent, seconds = map(float, done.stdout.split()[-3:])
    return peak, sent, seconds


def table(case: str) -> None:
    """Print a case on all its meshes."""
    size, window, angles, rows = CASES[case]
    print(f"\n{case}: {size}³ voxels, windows of {window}², {angles} angles × {rows**2} positions")
    columns = ("peak MiB", "of 1x1", "sent MiB", "planned", "strips", "s/epoch", "rate")
    print(f"{'mesh':10}" + "".join(f"{name:>10}" for name in columns))
    first, seconds_of = None, defaultdict(list)
    for mesh in RATES if case in TIMED else MESHES:
        peak, sent, seconds = of_mesh(case, mesh)
        scan, plan = planned(case, mesh.removesuffix(" twice"))
        exchange = exchange_of(plan, scan.geometry)
        first = first or (peak, seconds)
        seconds_of[mesh].append(seconds)
        planned_sent, strips = exchange.rows + exchange.priors, exchange.strips + exchange.priors
        print(
            f"{mesh:10}{peak:10.0f}{peak / first[0]:8.2f}{sent / MIB:10.1f}{planned_sent / MIB:10.1f}"
            f"{strips / MIB:10.1f}{seconds:10.2f}{first[1] / seconds:10.2f}",
            flush=True,
        )
    if case in TIMED:
        medians = {mesh: statistics.median(found) for mesh, found in seconds_of.items()}
        print("rates of the medians: " + ", ".join(f"{mesh} {medians['1x1'] / medians[mesh]:.2f}" for mesh in medians))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        run(sys.argv[2], sys.argv[3])
        end_process(0)
    for chosen in sys.argv[1:] or CASES:
        table(chosen)
