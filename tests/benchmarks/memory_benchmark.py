"""Memory of a rank, predicted and measured: the peak of its resident memory (VmHWM), job by job as a flow starts them.

``OMP_NUM_THREADS=1 python tests/benchmarks/memory_benchmark.py [case ...]``. Without a name the small cases run. Long
ones are ``512, 12 angles``, whose volume and slices are those of ``streamed`` (some minutes of processor time), and
``streamed`` itself: 180 frames of 512² from disk, 512³ voxels, 80 slices, two ranks.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import torch

from bluesky_multislice.files import read_provenance, read_scan, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import Allocation, LocalScheduler, run_and_wait
from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.optics import propagate
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.simulation.phantoms import demo_sample

VOXEL_M = 1e-9
GIB = 2**30


def holograms(n: int, angles: int) -> Scan:
    """Return holograms of ``n``² pixels of some smooth balls, made as they are read."""
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(0.5e-9),
        detector=Detector((n, n), (VOXEL_M, VOXEL_M), "near_field"),
        distance_m=np.full(angles, 3.6 * n * VOXEL_M),
        angle_rad=np.arange(angles) * np.pi / angles,
        position_m=np.zeros((angles, 2)),
    )
    return Scan(geometry, Frames(_Balls(geometry)))


class _Balls:
    """Holograms of balls, taken as thin, and smooth: what a retrieval finds of them is kept as the first volume."""

    def __init__(self, geometry: ScanGeometry) -> None:
        n = geometry.detector.shape[0]
        self.shape, self.dtype = (geometry.views, n, n), np.dtype(np.float32)
        self._geometry = geometry
        random = np.random.default_rng(0)
        self._place = random.uniform(-n / 5, n / 5, (12, 3))
        self._sigma = random.uniform(n / 40, n / 16, (12, 1, 1))

    def __getitem__(self, rows: slice) -> np.ndarray:
        _, n, _ = self.shape
        angle, wavelength_m = self._geometry.angle_rad[rows.start], self._geometry.beam.wavelength_m
        y, x = (np.mgrid[:n, :n] - (n - 1) / 2)[:, None]
        z_of, y_of, x_of = self._place.T[..., None, None]
        away = (x - x_of * np.cos(angle) - z_of * np.sin(angle)) ** 2 + (y - y_of) ** 2
        path_m = VOXEL_M * np.sum(self._sigma * np.sqrt(2 * np.pi) * np.exp(-away / (2 * self._sigma**2)), axis=0)
        wave = torch.from_numpy(np.exp(2 * np.pi / wavelength_m * (-1e-3j - 1e-5) * path_m))
        wave = propagate(
            wave,
            distance_m=float(self._geometry.distance_m[rows.start]),
            wavelength_m=wavelength_m,
            pixel_size_m=(VOXEL_M, VOXEL_M),
        )
        photons = np.random.default_rng(rows.start).poisson(1000 * wave.abs().numpy() ** 2)
        return photons[None].astype(np.float32)


class _Noise:
    """Frames of counts around 100."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.dtype = shape, np.dtype(np.float32)

    def __getitem__(self, rows: slice) -> np.ndarray:
        noise = np.random.default_rng(rows.start).poisson(100, (1, *self.shape[1:]))
        return noise.astype(np.float32)


def patterns() -> Scan:
    """Return a scan like the demo's, of a volume of some 64³."""
    sample = demo_sample("ptychography")
    shape = (sample.geometry.views, *sample.geometry.detector.shape)
    return Scan(sample.geometry, Frames(_Noise(shape)), sample.probe)


CASES = {
    "patterns": (patterns, {"ranks": 1}),
    "patterns of two ranks": (patterns, {"ranks": 2}),
    "small": (lambda: holograms(64, 48), {"ranks": 1}),
    "128": (lambda: holograms(128, 60), {"ranks": 1}),
    "128 without absorption": (lambda: holograms(128, 60), {"ranks": 1, "absorption": False}),
    "128 Adam": (lambda: holograms(128, 60), {"ranks": 1, "optimiser": "adam"}),
    "128 polished": (lambda: holograms(128, 60), {"ranks": 1, "polish": 2}),
    "128 turned by shears": (lambda: holograms(128, 60), {"ranks": 1, "interpolation": "fourier"}),
    "128 one angle": (lambda: replace_angles(holograms(128, 16)), {"ranks": 1, "depth_um": 0.128, "slices": 32}),
    "256": (lambda: holograms(256, 60), {"ranks": 2}),
    "256 from nothing": (lambda: holograms(256, 60), {"ranks": 2, "start": "empty"}),
    "256 streamed": (lambda: holograms(256, 60), {"ranks": 2, "frames_in": "disk"}),
    "512, 12 angles": (lambda: holograms(512, 12), {"ranks": 1, "frames_in": "disk", "batch_views": 4}),
    "streamed": (lambda: holograms(512, 180), {"ranks": 2, "frames_in": "disk"}),
}


LONG = ("512, 12 angles", "streamed")


def replace_angles(scan: Scan) -> Scan:
    """Return the scan with one angle for all frames."""
    return replace(scan, geometry=replace(scan.geometry, angle_rad=np.zeros(scan.geometry.views)))


def measure(name: str) -> None:
    """Run a case as a job, and print a row of the table."""
    make, recipe = CASES[name]
    chosen = Recipe.model_validate({"device": "cpu", "epochs": 2, **recipe})
    with tempfile.TemporaryDirectory() as place:
        folder = JobFolder(Path(place)).create()
        write_scan(folder.frames, make())
        plan = make_plan(chosen, read_scan(folder.frames))
        folder.write_job(recipe=chosen.model_dump(mode="json"), plan=plan.as_dict(), origin={})
        start = time.monotonic()
        allocation = Allocation(ranks_per_node=plan.ranks)
        run_and_wait(LocalScheduler(), folder, name="memory", allocation=allocation, on_progress=lambda record: None)
        seconds = time.monotonic() - start
        peak = read_provenance(folder.result)["machine"]["peak_memory_bytes"]
        with h5py.File(folder.result) as file:
            shape = "×".join(map(str, file["delta"].shape))
    print(
        f"{name:26}{shape:>14}{plan.slices:7}{plan.gradient:>12}{plan.fit.batch_views:7}{plan.ranks:6}"
        f"{plan.memory_bytes / GIB:11.3f}{peak / GIB:10.3f}{100 * (plan.memory_bytes / peak - 1):+8.0f}{seconds:8.0f}",
        flush=True,
    )


if __name__ == "__main__":
    print(
        f"{'case':26}{'volume':>14}{'slices':>7}{'gradient':>12}{'batch':>7}{'ranks':>6}"
        f"{'predicted':>11}{'GiB seen':>10}{'off %':>8}{'s':>8}"
    )
    for case in sys.argv[1:] or [name for name in CASES if name not in LONG]:
        measure(case)
