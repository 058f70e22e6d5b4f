"""Time of turning δ and β of a volume and averaging planes in slices, forward and transpose, one thread, float32.

Run it alone: ``python tests/benchmarks/rotation_benchmark.py [side …]``. The measure is torch's own ``grid_sample``.
"""

import math
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.optics import rotate

ANGLE_RAD, PLANES_A_SLICE = 0.7, 4


def grid_sample(volume: Tensor, slices: int) -> Tensor:
    """Turn by ``grid_sample`` and average."""
    nz, _, nx = volume.shape
    z, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (nz, nx)), indexing="ij")
    cosine, sine = math.cos(ANGLE_RAD), math.sin(ANGLE_RAD)
    where = torch.stack([(x * cosine - z * sine) * (2 / nx), (x * sine + z * cosine) * (2 / nz)], -1)[None]
    turned = functional.grid_sample(volume.movedim(1, 0)[None], where, align_corners=False)[0].movedim(0, 1)
    return turned.unflatten(0, (slices, -1)).mean(1)


WAYS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "grid_sample": grid_sample,
    "linear": lambda volume, slices: rotate(volume, ANGLE_RAD, slices=slices),
    "linear, then mean": lambda volume, slices: rotate(volume, ANGLE_RAD).unflatten(0, (slices, -1)).mean(1),
    "fourier": lambda volume, slices: rotate(volume, ANGLE_RAD, interpolation="fourier", slices=slices),
    "linear, tilted": lambda volume, slices: rotate(volume, ANGLE_RAD, tilt_rad=(0.01, 0.02), slices=slices),
}


def best_ms(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the shortest of some times, in milliseconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def measure(side: int) -> None:
    """Print the times for two volumes of ``side``³."""
    slices = side // PLANES_A_SLICE
    volumes = [torch.rand(side, side, side, requires_grad=True) for _ in range(2)]
    gradient = torch.rand(slices, side, side)
    for name, way in WAYS.items():
        forward = best_ms(lambda way=way: [way(volume.detach(), slices) for volume in volumes])
        images = [way(volume, slices) for volume in volumes]
        back = best_ms(
            lambda images=images: [
                torch.autograd.grad(image, volume, gradient, retain_graph=True)
                for image, volume in zip(images, volumes, strict=True)
            ]
        )
        print(f"{side:4d}³ × 2 to {slices:3d} slices  {name:18s} {forward:8.1f} ms forward {back:8.1f} ms transpose")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for side in [int(argument) for argument in sys.argv[1:]] or [64, 128, 192, 256]:
        measure(side)
