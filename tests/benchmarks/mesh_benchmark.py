"""Ranks as a mesh of angle × slab: memory, bytes exchanged and the rate of epochs, all meshes from one run.

``python tests/benchmarks/mesh_benchmark.py [memory] [exchange] [rate] [steps] ['large steps'] [angle] [holograms]``:
patterns of several angles on volumes of 256³ (memory) and 128³ voxels, of one angle, or holograms; one thread per rank,
and where epochs are timed, one rank with two threads, too. Memory is the resident peak of a rank (VmHWM)
over what it held before the volume was made; bytes are those that ranks sent, beside the planned ones and those of
gathering strips. Where epochs are timed, all meshes are there at once and do one in turn while the others are stopped:
what a host does for seconds or minutes falls on all of them. Rates are within a round; the table has their median, the
lowest and the highest, and beside them the rate of each mesh's fastest epoch: what a pause of one core costs ranks that
work together is not in it.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from bluesky_multislice.jobs.environment import SPIN_COUNT
from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.parallel import Mesh, Slab, end_process, join_mesh
from bluesky_multislice.planning import Plan, exchange_of, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.fit_sequence import load_data
from bluesky_multislice.solvers import Unknowns, ViewSet, fit, split_views

MESHES = ("1x1", "2x1", "1x2", "2x2", "4x1", "1x4")
TWO = "1x1 twice"
"""Two processes that know nothing of each other: cores may share what they compute with, and a host its time."""

THREADS = "1x1 in 2 threads"

RATES = ("1x1", TWO, "2x1", "1x2", THREADS)
PIXEL_M = 1e-9
ROUNDS = 9
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
CASES["angle"] = (320, 128, 1, 18)
CASES["holograms"] = (128, 128, 24, 1)
CHOSEN = {
    # One step adds up four batches, one for each of four ranks.
    "memory": {"slices": 8, "batches_per_step": 4},
    "exchange": {"slices": 16, "batches_per_step": 4},
    # Steps as they are planned, of 46 views, and of 137 and 855, an angle's: ranks add up a volume once a step.
    "rate": {},
    "steps": {"batches_per_step": 4, "batch_views": 36},
    "large steps": {"batches_per_step": 4, "batch_views": 225},
    "angle": {"slices": 3, "depth_um": 0.3, "probe_modes": 1},
    "holograms": {"slices": 16, "start": "empty", "find_axis": False},
}
TIMED = ("rate", "steps", "large steps", "angle", "holograms")


def planned(case: str, mesh: str) -> tuple[Scan, Plan]:
    """Return the scan of a case and its plan on a mesh."""
    scan = holograms(128, 24) if case == "holograms" else patterns(*CASES[case])
    # The first epoch measures its step, too.
    epochs = 1 + ROUNDS if case in TIMED else 4
    # Noise has nothing to generalise: frames held back would end the fit after a few epochs.
    held_back = 0 if case in TIMED else Recipe().held_back_every
    return scan, make_plan(
        Recipe(mesh=mesh, device="cpu", epochs=epochs, held_back_every=held_back, **CHOSEN[case]), scan
    )


def prepared(scan: Scan, plan: Plan, mesh: Mesh) -> tuple[Unknowns, tuple[ViewSet, ViewSet], Slab]:
    """Return what a fit starts from on this rank."""
    data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=20.0, mesh=mesh)
    slab = Slab(mesh, plan.grid.shape[1], data.rank_of_view)
    model = plan.forward_model(scan.geometry, slab)
    # Its pattern is speckle like the frames': with a plane wave's single spot, a fit of them diverges.
    phase = torch.rand((1, *model.window), generator=torch.Generator().manual_seed(0))
    probe = torch.polar(torch.ones_like(phase), 2 * torch.pi * phase)
    return Unknowns(model, probe, plan.fit, mesh.device), (data.fitted, data.held_back), slab


def status(name: str) -> float:
    """Return a number of MiB from what the system says of this process."""
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) / 1024


def run(case: str, mesh_name: str) -> None:
    """Fit a case on this rank, and say which process it is; the first rank says when epochs end, and what was seen."""
    # In one piece: another rank writes to the same pipe.
    sys.stdout.write(f"{os.getpid()}\n")
    sys.stdout.flush()
    scan, plan = planned(case, mesh_name)
    with join_mesh("cpu", plan.slabs) as mesh:
        if case == "memory":
            # Everything is loaded and compiled, and buffers have their size, before the volume is made.
            small = patterns(64, 64, 2, 2)
            short = make_plan(Recipe(mesh=mesh_name, slices=8, epochs=1, batches_per_step=4, held_back_every=0), small)
            unknowns, sets, _ = prepared(small, short, mesh)
            fit(unknowns, *sets, mesh, lambda epoch: None)
        unknowns, sets, slab = prepared(scan, plan, mesh)
        before = status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        sent = [slab.bytes_sent]

        def note(epoch: object) -> None:
            sent.append(slab.bytes_sent)
            if mesh.rank == 0:
                print("epoch", flush=True)

        fit(unknowns, *sets, mesh, note)
        peak = mesh.largest(status("VmHWM") - before)
        total = torch.tensor(sent[-1] - sent[-2], dtype=torch.float64)
        mesh.sum(total)
        if mesh.rank == 0:
            print(f"{peak} {total.item()}")


class Job:
    """Ranks that fit a case on a mesh, which a name like ``1x1 in 2 threads`` begins with."""

    def __init__(self, case: str, name: str) -> None:
        mesh, threads = name.split()[0], "2" if name == THREADS else "1"
        angles, slabs = map(int, mesh.split("x"))
        ranks = angles * slabs
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        self._process = subprocess.Popen(
            [*command, __file__, "--rank", case, mesh],
            env=os.environ | {"OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": SPIN_COUNT},
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ranks = [int(self._line()) for _ in range(ranks)]

    def _line(self) -> str:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The ranks have ended before their time.")
        return line

    def _send(self, number: signal.Signals) -> None:
        for rank in self._ranks:
            os.kill(rank, number)

    def epoch(self) -> float:
        """Return the seconds of one epoch more, after which the ranks are stopped."""
        began = time.perf_counter()
        self._send(signal.SIGCONT)
        assert self._line() == "epoch\n"
        seconds = time.perf_counter() - began
        self._send(signal.SIGSTOP)
        return seconds

    def end(self) -> tuple[float, float]:
        """Let them go on to their end, and return peak MiB of a rank and bytes sent in the last epoch."""
        self._send(signal.SIGCONT)
        while (line := self._line()) == "epoch\n":
            pass
        self._process.wait()
        peak, sent = map(float, line.split())
        return peak, sent


def table(case: str) -> None:
    """Print a case on all its meshes."""
    size, window, angles, rows = CASES[case]
    print(f"\n{case}: {size}³ voxels, windows of {window}², {angles} angles × {rows**2} positions")
    columns = ("peak MiB", "of 1x1", "sent MiB", "planned", "strips")
    print(f"{'mesh':18}" + "".join(f"{name:>10}" for name in columns))
    seconds, jobs = _timed(case) if case in TIMED else ({}, {mesh: [] for mesh in MESHES})
    first = None
    for mesh, several in jobs.items():
        peak, sent = map(statistics.mean, zip(*(job.end() for job in several or [Job(case, mesh)]), strict=True))
        scan, plan = planned(case, mesh.split()[0])
        exchange = exchange_of(plan, scan.geometry)
        first = first or peak
        planned_sent, strips = exchange.rows + exchange.priors, exchange.strips + exchange.priors
        print(
            f"{mesh:18}{peak:10.0f}{peak / first:8.2f}{sent / MIB:10.1f}{planned_sent / MIB:10.1f}{strips / MIB:10.1f}",
            flush=True,
        )
    for mesh, found in seconds.items():
        fastest = min(seconds["1x1"]) / min(found)
        rates = sorted(alone / each for alone, each in zip(seconds["1x1"], found, strict=True))
        print(
            f"{mesh:18}{statistics.median(found):8.2f} s per epoch, rate {statistics.median(rates):.2f}"
            f" ({rates[0]:.2f} to {rates[-1]:.2f}); the fastest {min(found):.2f} s, {fastest:.2f}"
        )


def _timed(case: str) -> tuple[dict[str, list[float]], dict[str, list[Job]]]:
    """Return the seconds of the epochs of each mesh, round by round, and the stopped jobs; of two jobs the half."""
    jobs: dict[str, list[Job]] = {}
    for mesh in RATES:
        jobs[mesh] = [Job(case, mesh) for _ in range(2 if mesh == TWO else 1)]
        for job in jobs[mesh]:
            job.epoch()
    seconds: dict[str, list[float]] = {mesh: [] for mesh in RATES}
    with ThreadPoolExecutor(2) as both:
        for _ in range(ROUNDS):
            for mesh, several in jobs.items():
                seconds[mesh].append(statistics.mean(both.map(Job.epoch, several)) / len(several))
    return seconds, jobs


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        run(sys.argv[2], sys.argv[3])
        end_process(0)
    for chosen in sys.argv[1:] or CASES:
        table(chosen)
