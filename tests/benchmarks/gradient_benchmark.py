"""Time and memory of the gradient of multislice, against bare FFT pairs and against plain automatic differentiation.

Run it alone: ``python tests/benchmarks/gradient_benchmark.py [threads]`` (1 unless told). All ways of a table, and the
FFT pair with preallocated output, are timed in turn, round by round, so that what else the machine does meets them all.
A last table shows what a slice costs beyond its Fourier transforms.
"""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from bluesky_multislice import optics
from bluesky_multislice.optics.fused_slices import FusedSlice
from bluesky_multislice.optics.transmission import EagerSlice

LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8}
SLICE_M, N, ROUNDS = 1e-6, 128, 15
PAIRS = {"stored": 2, "recomputed": 3, "checkpointed": 3}
"""FFT pairs a slice that the whole gradient needs at least, its forward pass included."""


def inputs(views: int, slices: int, *, own: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a wave, δ and β of a weak object, and the gradient of a misfit in the exit wave."""
    generator = torch.Generator().manual_seed(1)
    wave, gradient = (torch.randn(views, N, N, dtype=torch.complex64, generator=generator) for _ in range(2))
    shape = (slices, views, N, N) if own else (slices, N, N)
    delta, beta = (scale * torch.rand(shape, generator=generator) for scale in (1e-6, 1e-8))
    return wave, delta.requires_grad_(), beta.requires_grad_(), gradient


def plain(wave: Tensor, delta: Tensor, beta: Tensor) -> Tensor:
    """Return the exit wave by a z-first loop that torch differentiates: all transmissions at once, then unbound."""
    k = 2 * math.pi / LIGHT["wavelength_m"]
    half, whole = (
        optics.propagator((N, N), wavelength_m=LIGHT["wavelength_m"], pixel_size_m=(1e-8, 1e-8), distance_m=d).to(wave)
        for d in (SLICE_M / 2, SLICE_M)
    )
    own = delta.ndim == 4
    transmissions = torch.exp(torch.complex(-k * SLICE_M * beta, -k * SLICE_M * delta)).unbind(0)
    for z, transmission in enumerate(transmissions):
        wave = torch.fft.ifft2(torch.fft.fft2(wave) * (whole if z else half))
        wave = wave * (transmission if own else transmission[None])
    return torch.fft.ifft2(torch.fft.fft2(wave) * half)


def gradient_of(way: str, parts: tuple[Tensor, ...]) -> None:
    """Compute the gradients in δ and β, by a hand-written way or plainly."""
    wave, delta, beta, gradient = parts
    exit_wave = (
        plain(wave, delta, beta)
        if way == "plain autograd"
        else optics.multislice(wave, delta, beta, slice_thickness_m=SLICE_M, gradient=way, **LIGHT)
    )
    torch.autograd.grad(exit_wave, (delta, beta), gradient)


def forward_of(way: str, parts: tuple[Tensor, ...]) -> None:
    """Compute the exit wave alone."""
    with torch.no_grad():
        if way == "plain autograd":
            plain(*parts[:3])
        else:
            optics.multislice(*parts[:3], slice_thickness_m=SLICE_M, **LIGHT)


def fft_pairs(views: int, at_once: int) -> Callable[[], None]:
    """Return one FFT pair of ``views`` views, ``at_once`` together, into outputs that exist already."""
    waves = torch.randn(views, N, N, dtype=torch.complex64)
    spectrum, back = torch.empty_like(waves[:at_once]), torch.empty_like(waves[:at_once])

    def pair() -> None:
        for part in waves.split(at_once):
            torch.fft.fft2(part, out=spectrum)
            torch.fft.ifft2(spectrum, out=back)

    return pair


def interleaved(works: dict[str, tuple[Callable[[], object], int]]) -> dict[str, list[float]]:
    """Return times in ms of each work, done as often as told, round by round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for kept in (False, *[True] * ROUNDS):
        for name, (work, repeats) in works.items():
            start = time.perf_counter()
            for _ in range(repeats):
                work()
            if kept:
                times[name].append(1e3 * (time.perf_counter() - start) / repeats)
    return times


def three(times: list[float]) -> str:
    """Return median, least and most as columns."""
    return f"{statistics.median(times):10.2f}{min(times):10.2f}{max(times):10.2f}"


def against_the_floor(views: int, slices: int) -> None:
    """Print the gradient's time in multiples of its floor, for a shared object and one a view."""
    for own in (False, True):
        parts = inputs(views, slices, own=own)
        works = {"FFT pair, all views": (fft_pairs(views, views), slices)}
        works |= {"FFT pair, 4 views": (fft_pairs(views, 4), slices)}
        works |= {way: (lambda way=way, parts=parts: gradient_of(way, parts), 1) for way in (*PAIRS, "plain autograd")}
        times = interleaved(works)
        print(f"\n{views} views × {N}² × {slices} slices, δ, β {'(z, view, y, x)' if own else '(z, y, x)'}: gradient")
        print(f"{'':22}{'median ms':>10}{'min':>10}{'max':>10}{'× floor':>10}{'of minima':>10}{'4 views':>10}")
        for name, found in times.items():
            floor = slices * PAIRS.get(name, 2)
            ratios = [
                measure(found) / floor / measure(times[pair])
                for measure, pair in (
                    (statistics.median, "FFT pair, all views"),
                    (min, "FFT pair, all views"),
                    (statistics.median, "FFT pair, 4 views"),
                )
            ]
            columns = "" if name.startswith("FFT") else "".join(f"{ratio:10.2f}" for ratio in ratios)
            print(f"{name:22}{three(found)}{columns}")


def against_a_plain_loop(views: int, slices: int) -> None:
    """Print the times of the forward pass and of the gradient beside those of the plain loop."""
    parts = inputs(views, slices, own=False)
    works = {}
    for way in ("stored", "recomputed", "plain autograd"):
        works[f"{way}, gradient"] = (lambda way=way: gradient_of(way, parts), 1)
    for way in ("stored", "plain autograd"):
        works[f"{way}, forward"] = (lambda way=way: forward_of(way, parts), 1)
    times = interleaved(works)
    print(f"\n{views} views × {N}² × {slices} slices, δ, β (z, y, x)")
    print(f"{'':28}{'median ms':>10}{'min':>10}{'max':>10}{'× plain':>10}")
    for name, found in times.items():
        loop = times[f"plain autograd, {name.split(', ')[1]}"]
        print(f"{name:28}{three(found)}{statistics.median(found) / statistics.median(loop):10.2f}")


def parts_of_a_slice(views: int) -> None:
    """Print the time of a slice's transmission and of its adjoint, fused and eager, beside the FFT pair's."""
    works: dict[str, tuple[Callable[[], object], int]] = {"FFT pair": (fft_pairs(views, views), 20)}
    for own in (False, True):
        wave, delta, beta, gradient = (part.detach() for part in inputs(views, 1, own=own))
        planes = [part if own else part[:, None] for part in (delta, beta)]
        sums = [torch.zeros_like(part[0]) for part in planes]
        group = slice(0, views)
        for kind in (FusedSlice, EagerSlice):
            made = partial(kind, *(part[0] for part in planes), 1.0, kind.window_origins(None, wave, planes[0]))
            name = f"{kind.__name__}, {'own' if own else 'shared'}"
            works[f"{name}, made"] = (made, 20)
            works[f"{name}, transmit"] = (partial(made().transmit, wave, group, torch.empty_like(wave)), 20)
            works[f"{name}, back"] = (partial(made().back, gradient, wave, group, *sums), 20)
    times = interleaved(works)
    print(
        f"\n{views} views × {N}², one slice; T of own objects is made with an eager slice, at each use of a fused one"
    )
    print(f"{'':30}{'median ms':>10}{'min':>10}{'max':>10}{'× pair':>10}")
    for name, found in times.items():
        print(f"{name:30}{three(found)}{statistics.median(found) / statistics.median(times['FFT pair']):10.2f}")


def growth_of_memory() -> None:
    """Print by how many waves the peak of memory grows from 8 to 256 slices, beside δ, β and their gradients."""
    script = Path(__file__).parents[1] / "physics" / "peak_memory_of_gradient.py"
    # Without these, freed blocks stay with the process and blur the peak.
    environment = {**os.environ, "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    print("\nwaves that the peak of memory grows by from 8 to 256 slices")
    for way in PAIRS:
        command = [sys.executable, str(script), way]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        print(f"{way:22}{float(done.stdout):10.1f}")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    against_the_floor(views=16, slices=32)
    against_a_plain_loop(views=4, slices=128)
    parts_of_a_slice(views=16)
    growth_of_memory()
