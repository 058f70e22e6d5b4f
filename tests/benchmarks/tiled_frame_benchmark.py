"""A hologram of 2048² through tiles and as a whole: how far frame and gradient differ, and what each takes.

``OMP_NUM_THREADS=1 python tests/benchmarks/tiled_frame_benchmark.py [pixels]``. Tiles and halo are those that planning
chooses for an accuracy of 6 %. The sample is a speckle of details from two pixels on, which scatters to all angles.
"""

import sys
import time
from dataclasses import replace

import numpy as np
import torch

from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

VOXEL_M = 1e-9
SLICES = 8


def scan(n: int) -> Scan:
    """Return one view of a sample 160 nm thick."""
    geometry = ScanGeometry(
        technique="holography",
        beam=Beam(0.5e-9),
        detector=Detector((n, n), (VOXEL_M, VOXEL_M), "near_field"),
        distance_m=np.array([200e-9]),
        angle_rad=np.zeros(1),
        position_m=np.zeros((1, 2)),
    )
    return Scan(geometry, Frames(np.ones((1, n, n), np.float32)))


def main(n: int) -> None:
    """Print the differences and times."""
    seen = scan(n)
    recipe = Recipe(propagation="tiled-multislice", depth_um=0.16, slices=SLICES, ranks=1, device="cpu")
    tiled = replace(make_plan(recipe, seen), gradient="recomputed")
    noise = torch.Generator().manual_seed(1)
    delta = torch.nn.functional.avg_pool2d(torch.rand(tiled.grid.shape, generator=noise), 3, 1, 1) * 2e-3
    found = {}
    for plan in (replace(tiled, propagation="multislice"), tiled):
        model, volume = plan.forward_model(seen.geometry), delta.clone().requires_grad_()
        start = time.process_time()
        frame = model(volume, 0.1 * delta, torch.ones((1, *model.window), dtype=torch.complex64), [0])
        (frame - 1).square().sum().backward()
        found[plan.propagation] = frame.detach(), volume.grad, time.process_time() - start
    whole, tiles = found["multislice"], found["tiled-multislice"]
    print(f"{n}², {SLICES} slices, {tiled.tiles[0]} by {tiled.tiles[1]} tiles, halo {tiled.halo} pixels")
    print(f"frame    {100 * float((tiles[0] - whole[0]).norm() / (whole[0] - whole[0].mean()).norm()):.2f} % off")
    print(f"gradient {100 * float((tiles[1] - whole[1]).norm() / whole[1].norm()):.2f} % off")
    print(f"{whole[2]:.1f} s as a whole, {tiles[2]:.1f} s in tiles (processor time)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2048)
