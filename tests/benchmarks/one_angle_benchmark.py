"""Three slices from one angle on two cores: the time of an epoch over its transforms, and Pty-Chi beside this package.

    PYTHONPATH=tests OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node=2 \\
        tests/benchmarks/one_angle_benchmark.py --seeds 1 2 [--peer-epochs 60]

Two ranks fit 324 patterns of 128² with one probe mode. After each epoch they transform as many waves as the epoch's
bare Fourier transforms are by count, nine pairs per view, all at the same time: the ratio is of neighbours on a machine
that may be busy, once by the clock and once by the time that a rank had its core. Then, with the extra ``benchmark``
installed, rank 0 fits the same frames from the same probe by Pty-Chi's autodiff engine in two threads: Adam, one mode,
batches of 36. The table has the seconds until the worst slice correlates with the truth to so much.
"""

import argparse
import contextlib
import io
import math
import os
import statistics
import time
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.distributed as dist
from three_slices import ThreeSlices
from two_dimensional_multislice_benchmark import HELD_BACK_EVERY, pty_chi

from bluesky_multislice.parallel import Mesh, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import Unknowns, fit, load_views, share_held_back, share_views, split_views

LEVELS = (0.80, 0.84, 0.88, 0.90, 0.92)
PAIRS_PER_VIEW, VIEWS_AT_ONCE = 9, 8


@dataclass
class Times:
    """Seconds of epochs and of their bare transforms, by the clock and by the core, and correlations reached."""

    clock: list[tuple[float, float]] = field(default_factory=list)
    core: list[tuple[float, float]] = field(default_factory=list)
    reached: list[tuple[float, float]] = field(default_factory=list)


def transforms(views: int, window: int) -> tuple[float, float]:
    """Return the seconds, by the clock and of the core, of an epoch's bare transforms on every rank at once."""
    wave = torch.randn(VIEWS_AT_ONCE, window, window, dtype=torch.complex64)
    dist.barrier()
    began = time.perf_counter(), time.process_time()
    for _ in range(math.ceil(PAIRS_PER_VIEW * views / VIEWS_AT_ONCE)):
        torch.fft.ifft2(torch.fft.fft2(wave))
    core = time.process_time() - began[1]
    dist.barrier()
    return time.perf_counter() - began[0], core


def ours(sample: ThreeSlices, mesh: Mesh, epochs: int | None) -> Times:
    """Fit with this package as planned by default, with one mode."""
    scan, times = sample.scan(), Times()
    recipe = Recipe(depth_um=sample.depth_um, slices=3, probe_modes=1, ranks=mesh.size, device="cpu", epochs=epochs)
    plan = make_plan(recipe, scan)
    scale, views = float(sample.counts.mean()), len(sample.counts)
    first = torch.from_numpy(scan.probe) / math.sqrt(scale)
    unknowns = Unknowns(plan.forward_model(scan.geometry), first, plan.fit, mesh.device)
    fitted, held = split_views(views, HELD_BACK_EVERY)
    judged = share_held_back(held, scan.geometry.angle_rad, mesh.angles)[mesh.angle]
    sets = [
        load_views(scan, some, scale=scale, device=mesh.device, lane=lane)
        for some, lane in (share_views(fitted, plan.lanes, mesh), (judged, None))
    ]
    transforms(views, sample.window)
    spent, began = 0.0, (time.perf_counter(), time.process_time())

    def measure(epoch: object) -> None:
        nonlocal spent, began
        clock, core = time.perf_counter() - began[0], time.process_time() - began[1]
        floor = transforms(math.ceil(views / mesh.size), sample.window)
        spent += clock
        times.clock.append((clock, floor[0]))
        times.core.append((core, floor[1]))
        if mesh.rank == 0:
            radians = (unknowns.object.detach().double() / 3).numpy()
            times.reached.append((spent, min(sample.correlations(np.exp(-1j * radians[0] - radians[1])))))
        dist.barrier()
        began = time.perf_counter(), time.process_time()

    fit(unknowns, *sets, mesh, measure)
    return times


def peer(sample: ThreeSlices, epochs: int) -> list[tuple[float, float]]:
    """Fit with Pty-Chi in two threads; return seconds by the clock and the worst slice's correlation."""
    torch.set_num_threads(2)
    with contextlib.redirect_stderr(io.StringIO()):
        course = pty_chi(sample, "autodiff", epochs, 36, clock=time.perf_counter)
    torch.set_num_threads(1)
    return [(seconds, min(correlations)) for seconds, correlations, _ in course.rows]


def row(name: str, reached: list[tuple[float, float]]) -> str:
    """Return a line of the table."""
    cells = [next((f"{seconds:.1f}" for seconds, worst in reached if worst >= level), "–") for level in LEVELS]
    seconds, worst = reached[-1]
    return f"{name:28}" + "".join(f"{cell:>8}" for cell in cells) + f"   {worst:.3f} after {seconds:.0f} s"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--photons", type=float, default=1e7, help="of a pattern")
    parser.add_argument("--spacing", type=float, default=60.0, help="of the slices, pixels²/λ")
    parser.add_argument("--epochs", type=int, help="of this package")
    parser.add_argument("--peer-epochs", type=int, default=0, help="of Pty-Chi; 0 leaves it out")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    samples = [ThreeSlices(seed=seed, photons=asked.photons, spacing=asked.spacing) for seed in asked.seeds]
    with join_mesh("cpu") as mesh:
        found = [ours(sample, mesh, asked.epochs) for sample in samples]
    if mesh.rank > 0:
        return
    # Pty-Chi would share its work with the other rank.
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "ROLE_RANK"):
        os.environ.pop(name, None)
    for sample, times in zip(samples, found, strict=True):
        show(sample, times, asked.peer_epochs)


def show(sample: ThreeSlices, times: Times, peer_epochs: int) -> None:
    """Print what one data set gave, and fit it with Pty-Chi for so many epochs."""
    for name, pairs in (("clock", times.clock[1:]), ("core", times.core[1:])):
        columns = zip(*((epoch, floor, epoch / floor) for epoch, floor in pairs), strict=True)
        epoch, floor, ratio = map(statistics.median, columns)
        print(f"seed {sample.seed}: epoch {epoch:.3f} s, transforms {floor:.3f} s by {name}, ratio {ratio:.2f}")
    print(f"{'s until the worst slice has':28}" + "".join(f"{level:8.2f}" for level in LEVELS))
    print(row("this package, 2 ranks", times.reached), flush=True)
    if peer_epochs:
        print(row("Pty-Chi autodiff, 2 threads", peer(sample, peer_epochs)), flush=True)


if __name__ == "__main__":
    main()
