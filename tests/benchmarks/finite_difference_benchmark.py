"""Finite difference against multislice at equal accuracy, and ways to solve its systems; one thread, float32.

Run it alone: ``python tests/benchmarks/finite_difference_benchmark.py [side …]``. The object is a random one, two
depths of field thick, seen in one view. Each way gets the fewest slices with which its scattered wave is as near as the
target to that of many thin slices (angular spectrum); then times and memory are taken. Shown are medians and, as noise,
the relative distance between the quartiles.
"""

import ctypes
import math
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bluesky_multislice import optics
from bluesky_multislice.optics.stencils import fractions
from bluesky_multislice.optics.tridiagonal import Solver, Tridiagonal

WAVELENGTH_M, PIXEL_M = 1e-10, 10e-9
LIGHT = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": PIXEL_M}
LENGTH_M = 2 * 5.4 * (2 * PIXEL_M) ** 2 / WAVELENGTH_M
THIN_SLICES, COUNTS = 96, (2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
TARGETS = (0.05, 0.03, 0.01)
LARGEST_PHASE, FINEST_DETAIL = 3.0, 0.25
WAYS: dict[str, Callable[..., Tensor]] = {
    "multislice, angular spectrum": optics.multislice,
    "multislice, Fresnel": lambda *a, **k: optics.multislice(*a, kernel="fresnel", **k),
    "finite difference, plain": lambda *a, **k: optics.finite_difference(*a, stencil="plain", **k),
    "finite difference, compact": optics.finite_difference,
    "finite difference, wide": lambda *a, **k: optics.finite_difference(*a, stencil="wide", **k),
    "finite difference, wide, outgoing": lambda *a, **k: optics.finite_difference(
        *a, stencil="wide", boundary="outgoing", **k
    ),
}


def spread(work: Callable[[], object], repeats: int = 9) -> tuple[float, float]:
    """Return the median of some times in ms, and the relative distance between the quartiles."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    low, median, high = statistics.quantiles(times, n=4)
    return median, (high - low) / median


def extra_memory(work: Callable[[], object]) -> float:
    """Return by how many MiB the process grows at most (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def random_object(side: int) -> Tensor:
    """Return δ (z, y, x) with detail down to a quarter of the Nyquist frequency, in the middle of the field."""
    noise = torch.randn(THIN_SLICES, side, side, generator=torch.Generator().manual_seed(1))
    fy, fx = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    lowpass = torch.exp(-(fy**2 + fx**2) / (2 * (FINEST_DETAIL / 2) ** 2))
    smooth = torch.fft.irfft2(torch.fft.rfft2(noise) * lowpass, s=(side, side))
    position = torch.linspace(-1, 1, side)
    window = torch.exp(-(((position[:, None] ** 2 + position**2) / 0.3) ** 2))
    depth = torch.nn.functional.avg_pool3d(smooth.abs()[None, None], (5, 1, 1), 1, (2, 0, 0))[0, 0] * window
    total = depth.sum(0).max() * LENGTH_M / THIN_SLICES * 2 * math.pi / WAVELENGTH_M
    return depth * (LARGEST_PHASE / total)


def binned(delta: Tensor, slices: int) -> tuple[Tensor, float]:
    """Return δ averaged into slices, and their thickness."""
    return delta.unflatten(0, (slices, -1)).mean(1), LENGTH_M / slices


def scattered(way: Callable[..., Tensor], delta: Tensor, slices: int) -> Tensor:
    """Return the exit wave less the incident one, for as many slices."""
    coarse, thickness = binned(delta, slices)
    wave = torch.ones(1, *delta.shape[-2:], dtype=torch.complex64)
    return way(wave, coarse, torch.zeros_like(coarse), slice_thickness_m=thickness, **LIGHT) - 1


def compare(side: int) -> None:
    """Print the table for one size of field."""
    delta = random_object(side)
    reference = scattered(optics.multislice, delta, THIN_SLICES)
    errors = {
        name: [float((scattered(way, delta, n) - reference).norm() / reference.norm()) for n in COUNTS]
        for name, way in WAYS.items()
    }
    for target in TARGETS:
        print(f"\n{side}²: scattered wave within {100 * target:g} %")
        print(f"{'way':36}{'slices':>7}{'error %':>9}{'forward ms':>16}{'and gradient ms':>18}{'MiB':>7}")
        for name, way in WAYS.items():
            enough = [i for i, error in enumerate(errors[name]) if error <= target]
            if not enough:
                print(f"{name:36}{'—':>7}{100 * min(errors[name]):9.2f}   not reached with {COUNTS[-1]} slices")
                continue
            slices, error = COUNTS[enough[0]], errors[name][enough[0]]
            print(f"{name:36}{slices:7}{100 * error:9.2f}{time_of(way, delta, slices)}", flush=True)


def time_of(way: Callable[..., Tensor], delta: Tensor, slices: int) -> str:
    """Return the columns of times and memory."""
    coarse, thickness = binned(delta, slices)
    coarse.requires_grad_()
    beta = torch.zeros_like(coarse)
    wave = torch.ones(1, *delta.shape[-2:], dtype=torch.complex64)

    def forward() -> Tensor:
        return way(wave, coarse, beta, slice_thickness_m=thickness, gradient="stored", **LIGHT)

    def with_gradient() -> tuple[Tensor, ...]:
        exit_wave = forward()
        return torch.autograd.grad(exit_wave, coarse, exit_wave.detach())

    with torch.no_grad():
        (once, noise) = spread(forward)
    (both, noise_of_both) = spread(with_gradient)
    times = f"{once:10.1f} ±{100 * noise:3.0f} %{both:12.1f} ±{100 * noise_of_both:3.0f} %"
    return f"{times}{extra_memory(with_gradient):7.0f}"


def solve_one_axis(side: int) -> None:
    """Print the time of the systems of one axis of a compact step, solved in several ways."""
    q = complex(fractions("compact", 0.1, 1e3)[0][0])
    ones = torch.ones(side, dtype=torch.complex128)
    matrix = Tridiagonal(ones, -2 * ones, ones).one_plus(q)
    solver = Solver(matrix, 1.0, torch.complex64, ones.device)
    eye = torch.eye(side, dtype=torch.complex128)
    inverse = torch.linalg.inv(matrix.product(eye)).to(torch.complex64)
    waves = torch.randn(side, side, dtype=torch.complex64)
    below, above, scale = ([complex(0.1, 0.1)] * side for _ in range(3))

    def sweep() -> None:
        """Eliminate row by row and substitute back (Thomas), in lines along the first axis."""
        rows = waves.clone().unbind(0)
        for i in range(1, side):
            rows[i].add_(rows[i - 1], alpha=below[i])
        for i in range(side - 2, -1, -1):
            rows[i].mul_(scale[i]).add_(rows[i + 1], alpha=above[i])

    ways = {
        "reduction": lambda: solver.solve(waves),
        "sweep, without the ring": sweep,
        "transposition for a sweep": lambda: waves.mT.contiguous(),
        "dense inverse": lambda: waves @ inverse,
        "FFT pair (both axes)": lambda: torch.fft.ifft2(torch.fft.fft2(waves)),
    }
    print(f"\n{side}²: systems of one axis, a = 0.1")
    for name, way in ways.items():
        median, noise = spread(way)
        print(f"{name:36}{median:10.2f} ms ±{100 * noise:3.0f} %")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in [int(argument) for argument in sys.argv[1:]] or [256, 1024]:
        solve_one_axis(size)
        compare(size)
