"""A hollow cone with small spheres on it: error and shell correlation of multislice and projection.

Start it on two cores: ``PYTHONPATH=tests/physics OMP_NUM_THREADS=1 torchrun --nproc-per-node=2
tests/benchmarks/hollow_cone_benchmark.py FRAMES.npy``; with ``--size 256 --angles 60 --device cuda`` and no torchrun on
a GPU. FRAMES.npy keeps the patterns of the independent, finer simulation, which runs on the CPU; it is made where it
does not exist. Every twentieth frame is held back.

The kind of sample is that of Gilles et al., Optica 5, 1078 (2018), and Du et al., Sci. Adv. 6, eaay3700 (2020); its
sizes, materials, probe and scan are this benchmark's own. At 128 voxels the volume is 19 depths of field thick; 24
angles and 49 positions are few for it. Measured at 128 voxels, eight epochs, two ranks, while some ten other processes
shared the two cores, so that times say little but in proportion:

| | error of δ | shell correlation, 0.2 to 0.45 cycles a voxel | held-back misfit | seconds |
| --- | --- | --- | --- | --- |
| projection | 0.470 | 0.29 | 9.5e-3 | 696 |
| multislice | 0.080 | 0.92 | 2.0e-4 | 1312 |
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ptychographic_tomography_benchmark import load_frames, measure
from scipy.ndimage import gaussian_filter
from thick_phantom import FINER, Phantom

from bluesky_multislice.parallel import end_process, join_mesh


@dataclass(frozen=True)
class HollowCone(Phantom):
    """The cone stands on its wide end around the rotation axis; its wall has 0.4 of the spheres' δ."""

    def fine_delta(self) -> NDArray[np.float64]:
        """Return δ (z, y, x) on the fine grid."""
        n = FINER * self.size
        along = (np.arange(n) - (n - 1) / 2) / n
        z, y, x = np.meshgrid(along, along, along, indexing="ij", sparse=True)
        outer = 0.2 - 0.25 * along
        radius = np.hypot(z, x)
        wall = (np.abs(y) < 0.38) & (radius < outer[:, None]) & (radius > 0.7 * outer[:, None])
        delta = 0.4 * self.delta * wall
        random = np.random.default_rng(self.seed)
        for _ in range(self.spheres):
            height, turn, size = random.uniform(-0.36, 0.36), random.uniform(0, 2 * np.pi), random.uniform(0.02, 0.04)
            at = 0.2 - 0.25 * height + size
            off = (z - at * np.sin(turn)) ** 2 + (y - height) ** 2 + (x - at * np.cos(turn)) ** 2
            delta[off < size**2] = self.delta
        return gaussian_filter(delta, 0.6 * np.sqrt(FINER**2 - 1))


def main(path: Path, phantom: HollowCone, photons: float, recipe: dict) -> None:
    """Print the table."""
    with join_mesh(recipe["device"]) as mesh:
        frames = load_frames(path, phantom, mesh)
        if mesh.rank == 0:
            print(f"\n{phantom.size} voxels a side, {len(frames)} frames, {photons:g} photons each, {mesh.size} ranks")
            print(f"{'':32}{'error':>8}{'FSC':>8}{'held back':>11}{'time':>9}")
        for name in ("projection", "multislice"):
            measure(name, phantom, frames, photons, recipe, mesh)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frames", type=Path, help="file that keeps the simulated patterns")
    parser.add_argument("--size", type=int, default=128, help="voxels a side, a multiple of 4")
    parser.add_argument("--angles", type=int, default=24, help="over half a turn")
    parser.add_argument("--positions", type=int, default=7, help="a side of the square of scan positions")
    parser.add_argument("--photons", type=float, default=1e8, help="a pattern, on average")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    chosen = parser.parse_args()
    n = chosen.size
    cone = HollowCone(
        size=n,
        window=n // 2,
        angles=chosen.angles,
        positions=chosen.positions,
        reach=n / 4,
        focus=60 * n / 64,
        spheres=80,
    )
    main(chosen.frames, cone, chosen.photons, {"epochs": chosen.epochs, "device": chosen.device})
    end_process(0)
