"""The first minutes on a GPU: is what it computes right, then how fast, in under three minutes on one or more GPUs.

``python tests/benchmarks/gpu_benchmark.py > gpu.json``; with ``--device cpu --quick`` it proves itself on a processor.
JSON goes to the output, a table with goals to the terminal. Each section fails alone, with its error in the JSON.
docs/gpu.md says what each figure means.
"""

import argparse
import functools
import json
import math
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "physics"))

import numpy as np
import torch
import torch.distributed as dist
from gpu_report import Figures, table
from mesh_benchmark import patterns
from small_fits import CASES
from small_scan import hologram_geometry
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.optics import PROPAGATIONS, rotate
from bluesky_multislice.parallel import end_process, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Epoch, choose_kernels

LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8, "slice_thickness_m": 1e-7}
PAIRS = 2
"""FFT pairs of a slice, forward and adjoint, with stored waves."""

PASSES = 25
"""Times that a slice, forward and adjoint, has to read or write its waves: four for each of four Fourier transforms,
two for each product with a propagator, two for the transmission, three for its adjoint."""


@dataclass(frozen=True)
class Setting:
    """Where and how thoroughly is measured.

    Attributes:
        device: where.
        quick: small sizes and few cases.
    """

    device: torch.device
    quick: bool

    @property
    def is_accelerator(self) -> bool:
        return self.device.type != "cpu"

    @property
    def module(self) -> Any:
        """The device's module of PyTorch, such as ``torch.cuda`` or ``torch.xpu``."""
        return torch.get_device_module(self.device)

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Pixels of a side and views of the waves that are timed."""
        if self.quick:
            return [(64, 2), (128, 1)]
        large = [(512, 8), (1024, 8), (2048, 2)] if self.is_accelerator else []
        return [(64, 1), (64, 32), (256, 1), (256, 16), *large]

    @property
    def profiled(self) -> list[Any]:
        """What PyTorch's profiler can see of the device; nothing of a processor, or where it is built without."""
        activity = getattr(torch.profiler.ProfilerActivity, self.device.type.upper())
        return [activity] if self.is_accelerator and activity in torch.profiler.supported_activities() else []

    def synchronise(self) -> None:
        """Wait for all that the device was given."""
        if self.is_accelerator:
            torch.accelerator.synchronize()

    def seconds(self, compute: Callable[[], object]) -> float:
        """Return the least time of a computation of three rounds, after one that warms up."""
        least = 0.02 if self.quick else 0.1
        compute()
        self.synchronise()
        found, number = [], 1
        while len(found) < 3:
            began = time.perf_counter()
            for _ in range(number):
                compute()
            self.synchronise()
            took = time.perf_counter() - began
            if took < least and number < 10_000:
                number = max(number + 1, int(1.3 * number * least / max(took, 1e-6)))
            else:
                found.append(took / number)
        return min(found)


def difference(found: Tensor, expected: Tensor) -> float:
    """Return the relative difference from the processor's tensor."""
    expected = expected.detach()
    return float((found.detach().cpu().to(expected.dtype) - expected).norm() / expected.norm())


def machine(setting: Setting) -> Figures:
    """Name, versions, and the rates that all else is measured by."""
    device, size = setting.device, 2**22 if setting.quick or not setting.is_accelerator else 2**28
    one, (x, y) = torch.zeros(1, device=device), (torch.zeros(size, device=device) for _ in range(2))
    found: Figures = {
        "name": setting.module.get_device_name() if setting.is_accelerator else "cpu",
        "devices": torch.accelerator.device_count() if setting.is_accelerator else 0,
        "torch": torch.__version__,
        "driver": torch.version.cuda or torch.version.hip or getattr(torch.version, "xpu", None),
        "copy_bytes_per_s": copy_rate(setting, x, y),
        "launch_us": 1e6 * setting.seconds(lambda: one.add_(1)),
        "read_a_number_us": 1e6 * setting.seconds(lambda: one.item()),
    }
    if setting.is_accelerator:
        pageable = torch.zeros(min(size, 2**24))
        pinned, there = pageable.pin_memory(), x[: len(pageable)]
        found["upload_pageable_bytes_per_s"] = pageable.nbytes / setting.seconds(lambda: there.copy_(pageable))
        found["upload_pinned_bytes_per_s"] = pageable.nbytes / setting.seconds(
            lambda: there.copy_(pinned, non_blocking=True)
        )
    return found


def copy_rate(setting: Setting, x: Tensor, y: Tensor) -> float:
    """Return the bytes per second that a copy reads and writes."""
    return 2 * x.nbytes / setting.seconds(lambda: y.copy_(x))


def kernels(setting: Setting) -> Figures:
    """Which kernels a job would compute with, and how far fused ones are from the general ones."""
    with join_mesh(setting.device.type) as mesh:
        return choose_kernels("auto", mesh).as_dict()


def with_each_kernels(section: Callable[[Setting], Figures]) -> Callable[[Setting], Figures]:
    """Return a section that does its work with the general kernels, and on an accelerator with those of a job, too."""

    @functools.wraps(section)
    def measure(setting: Setting) -> Figures:
        found = {}
        for asked in ("general", "auto") if setting.is_accelerator else ("general",):
            with join_mesh(setting.device.type) as mesh:
                choose_kernels(asked, mesh)
            found |= {f"{label}, {asked}": figures for label, figures in section(setting).items()}
        return found

    return measure


@with_each_kernels
def propagations(setting: Setting) -> Figures:
    """Exit wave and gradients in wave, δ and β of every propagation, against the processor in double precision."""
    found = {}
    cases = [("multislice", {"gradient": way}) for way in ("stored", "recomputed", "checkpointed")]
    cases += [("tiled-multislice", {"tiles": (2, 2), "halo": 12}), ("finite-difference", {})]
    cases += [("finite-difference-wide", {}), ("projection", {})]
    for name, options in cases:
        for windows in (None, [(0, 0), (3, 9), (9, 1)]):
            results = [
                _with_gradients(name, options, windows, *where)
                for where in ((setting.device, torch.float32), (torch.device("cpu"), torch.float64))
            ]
            label = f"{name} {options.get('gradient', '')} {'windows' if windows else 'whole planes'}".replace(
                "  ", " "
            )
            found[label] = max(difference(*pair) for pair in zip(*results, strict=True))
    return found


def _with_gradients(
    name: str, options: dict, windows: list | None, device: torch.device, precision: torch.dtype
) -> list[Tensor]:
    """Return the exit wave and the gradients of a misfit in it."""
    n, slices, generator = 48, 6, torch.Generator().manual_seed(0)
    side = n + 9 if windows else n
    wave = torch.randn(3, n, n, dtype=torch.complex128, generator=generator)
    delta, beta = (scale * torch.rand(slices, side, side, generator=generator).double() for scale in (1e-6, 1e-8))
    complex_precision = torch.complex64 if precision == torch.float32 else torch.complex128
    given = [wave.to(device, complex_precision), *(part.to(device, precision) for part in (delta, beta))]
    given = [part.requires_grad_() for part in given]
    exit_wave = PROPAGATIONS[name](*given, windows=windows, **LIGHT, **options)
    misfit = (exit_wave.abs().square() - 1).square().sum()
    return [exit_wave, *torch.autograd.grad(misfit, given)]


@with_each_kernels
def rotation(setting: Setting) -> Figures:
    """Every interpolation against the processor in double precision, and how far its gradient is from the transpose."""
    n, found, generator = 24, {}, torch.Generator().manual_seed(0)
    volume, image = (torch.randn(n, n, n, dtype=torch.float64, generator=generator) for _ in range(2))
    for name, tilt in (("linear", None), ("cubic", None), ("fourier", None), ("linear", (0.05, -0.03))):
        there = volume.to(setting.device, torch.float32).requires_grad_()
        turned = rotate(there, 0.4, interpolation=name, tilt_rad=tilt)
        label = f"{name}{', tilted' if tilt else ''}"
        found[label] = difference(turned, rotate(volume, 0.4, interpolation=name, tilt_rad=tilt))
        (back,) = torch.autograd.grad(turned, there, image.to(turned))
        forth, back = float((turned.detach().cpu().double() * image).sum()), float((volume * back.cpu().double()).sum())
        found[f"{label}: transpose"] = abs(forth - back) / float(turned.detach().norm() * image.norm())
    return found


def fits(setting: Setting) -> Figures:
    """Small reconstructions of each technique against the processor's."""
    names = ["holograms", "patterns", "patterns of one angle"]
    if not setting.quick:
        names += ["images", "recomputed waves", "finite-difference", "fourier", "refined frames", "adam", "polished"]
        names += ["variations", "patterns, tiled", "frames on disk"]
    found = {}
    for name in names:
        volumes = []
        for kind in (setting.device.type, "cpu"):
            plan = CASES[name].plan(ranks=1)
            with join_mesh(kind) as mesh:
                solution = CASES[name].solve(plan, mesh)
            volumes.append(torch.stack([solution.delta, solution.beta]))
        found[name] = difference(*volumes)
    return found


@with_each_kernels
def slices(setting: Setting) -> Figures:
    """Time of an FFT pair and of a slice, forward and adjoint, with stored waves."""
    x, y = (torch.zeros(2**22 if setting.quick else 2**26, device=setting.device) for _ in range(2))
    copied, found = copy_rate(setting, x, y), {}
    for n, views in setting.sizes:
        wave = torch.randn(views, n, n, dtype=torch.complex64, device=setting.device)
        pair_s = setting.seconds(lambda wave=wave: torch.fft.ifft2(torch.fft.fft2(wave)))
        for windows in (None, [(0, 0)] * views):
            times = [setting.seconds(_gradient(setting, n, views, number, windows)) for number in (4, 12)]
            slice_s = (times[1] - times[0]) / 8
            found[f"{views} × {n}² {'windows' if windows else 'whole planes'}"] = {
                "pixels": views * n**2,
                "fft_pair_us": 1e6 * pair_s,
                "slice_us": 1e6 * slice_s,
                "over_fft": slice_s / (PAIRS * pair_s),
                "share_of_copy": PASSES * wave.nbytes / slice_s / copied,
                "call_us": 1e6 * (times[0] - 4 * slice_s),
            }
    return found


def _gradient(setting: Setting, n: int, views: int, number: int, windows: list | None) -> Callable[[], object]:
    """Return what propagates through so many slices and takes the gradient in wave, δ and β."""
    wave = torch.ones(views, n, n, dtype=torch.complex64, device=setting.device).requires_grad_()
    parts = [torch.full((number, n, n), part, device=setting.device).requires_grad_() for part in (1e-6, 1e-8)]
    uphill = torch.ones_like(wave).detach()

    def compute() -> object:
        exit_wave = PROPAGATIONS["multislice"](wave, *parts, windows=windows, gradient="stored", **LIGHT)
        return torch.autograd.grad(exit_wave, (wave, *parts), uphill)

    return compute


@with_each_kernels
def launches(setting: Setting) -> Figures:
    """PyTorch's operators, and on an accelerator its kernels, per slice, forward and adjoint."""
    found: Figures = {}
    for label, windows in (("whole planes", None), ("windows", [(0, 0)] * 4)):
        few, many = (_gradient(setting, 64, 4, number, windows) for number in (4, 12))
        found[label] = {"operators": (_operators(many) - _operators(few)) / 8}
        if setting.profiled:
            found[label]["kernels"] = (len(_profiled(setting, many)) - len(_profiled(setting, few))) / 8
    return found


def _operators(compute: Callable[[], object]) -> int:
    """Return how many operators run that are not views or allocations."""
    quiet = (
        "empty",
        "detach",
        "view",
        "alias",
        "expand",
        "select",
        "slice",
        "unsqueeze",
        "split",
        "unfold",
        "real",
        "imag",
    )
    seen = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
            nonlocal seen
            seen += not any(part in func.__name__ for part in quiet)
            return func(*args, **(kwargs or {}))

    compute()
    with Count():
        compute()
    return seen


def _profiled(setting: Setting, compute: Callable[[], object]) -> list[tuple[float, float]]:
    """Return when kernels ran (µs) within a computation."""
    compute()
    setting.synchronise()
    with torch.profiler.profile(activities=setting.profiled) as profile:
        compute()
        setting.synchronise()
    return _kernels(profile)


def _kernels(profile: Any) -> list[tuple[float, float]]:
    events = [event for event in profile.events() if event.device_type != torch.autograd.DeviceType.CPU]
    return sorted((event.time_range.start, event.time_range.end) for event in events)


def covered(ranges: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of several ranges, in the order of their beginnings, lasts."""
    total, until = 0.0, -math.inf
    for start, end in ranges:
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def epochs(setting: Setting) -> Figures:
    """A whole epoch of each technique: its time, the share of it in which the device computes, and memory."""
    side = 32 if setting.quick else 256 if setting.is_accelerator else 64
    found = {}
    for name, scan in (
        ("holograms", _noise(side, 8 if setting.quick else 64)),
        ("patterns", patterns(side, side // 2, 2 if setting.quick else 16, 4)),
        ("patterns of one angle", patterns(side, side // 2, 1, 4 if setting.quick else 16)),
    ):
        found[name] = _Watched(setting).fit(scan)
    return found


def _noise(side: int, angles: int) -> Scan:
    """Return holograms of nothing but noise."""
    frames = np.random.default_rng(0).poisson(100, (angles, side, side)).astype(np.float32)
    return Scan(hologram_geometry(side, angles), Frames(frames))


class _Watched:
    """A fit of four epochs: the third is timed, the fourth profiled."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._profile, self._ends = setting, None, []
        self._kernels: list[tuple[float, float]] | None = None

    def fit(self, scan: Scan) -> Figures:
        """Return the figures of the last epochs."""
        kind = self._setting.device.type
        plan = make_plan(Recipe(ranks=1, device=kind, epochs=4, start="empty", find_axis=False), scan)
        if self._setting.is_accelerator:
            self._setting.module.reset_peak_memory_stats()
        with join_mesh(kind) as mesh:
            reconstruct(scan, plan, mesh, self._report)
            # A processor's peak is of all that this process did before, too.
            peak = mesh.own_peak_bytes if self._setting.is_accelerator else None
        epoch_s = self._ends[2] - self._ends[1]
        share = None
        if self._kernels:
            share = covered(self._kernels) * 1e-6 / (self._ends[3] - self._ends[2])
        return {
            "views": scan.geometry.views,
            "volume": list(plan.grid.shape),
            "slices": plan.slices,
            "epoch_s": epoch_s,
            "share_on_device": share,
            "kernels": None if self._kernels is None else len(self._kernels),
            "peak_memory_bytes": peak,
            "planned_memory_bytes": plan.memory_bytes,
        }

    def _report(self, epoch: Epoch) -> None:
        self._setting.synchronise()
        if self._profile is not None:
            self._profile.stop()
            self._kernels = _kernels(self._profile)
        self._ends.append(time.perf_counter())
        if len(self._ends) == 3 and self._setting.profiled:
            self._profile = torch.profiler.profile(activities=self._setting.profiled)
            self._profile.start()
            self._ends[-1] = time.perf_counter()


def collectives(setting: Setting) -> Figures:
    """All-to-all and all-reduce among the devices of this machine, or two ranks on the processor."""
    ranks = torch.accelerator.device_count() if setting.is_accelerator else 2
    if ranks < 2:
        return {"left out": "there is one device"}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    options = ["--device", setting.device.type, "--exchange", *(["--quick"] if setting.quick else [])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, __file__, *options], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout.splitlines()[-1])


def exchange(kind: str, quick: bool) -> None:
    """Time what the ranks exchange; the first prints bytes per second of each rank."""
    with join_mesh(kind) as mesh:
        setting, found = Setting(mesh.device, quick), {"ranks": mesh.size}
        sent = torch.ones(mesh.size * (2**14 if quick else 2**24), device=mesh.device)
        received = torch.empty_like(sent)
        for name, talk in (
            ("all_to_all", lambda: dist.all_to_all_single(received, sent)),
            ("all_reduce", lambda: dist.all_reduce(received)),
        ):
            times = []
            for _ in range(6):
                setting.synchronise()
                dist.barrier()
                began = time.perf_counter()
                talk()
                setting.synchronise()
                times.append(time.perf_counter() - began)
            found[f"{name}_bytes_per_s"] = sent.nbytes / min(times[1:])
        if mesh.rank == 0:
            print(json.dumps(found))


SECTIONS = (machine, kernels, propagations, rotation, fits, slices, launches, epochs, collectives)


def measured(setting: Setting) -> dict[str, Figures]:
    """Return the figures of every section, or its error."""
    results = {}
    for section in SECTIONS:
        began = time.perf_counter()
        try:
            results[section.__name__] = section(setting)
        except Exception as error:
            where = traceback.format_exc().strip().splitlines()[-3:]
            results[section.__name__] = {"error": f"{type(error).__name__}: {error}", "where": where}
        print(f"{section.__name__}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    return results


def main() -> None:
    """Measure, print JSON and the report."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default=None, help="cpu, cuda or xpu; left out: the accelerator that is there")
    options.add_argument("--quick", action="store_true", help="small sizes and few cases")
    options.add_argument("--exchange", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    kind = chosen.device or (accelerator.type if accelerator else "cpu")
    if chosen.exchange:
        exchange(kind, chosen.quick)
        end_process(0)
    if kind == "cpu":
        torch.set_num_threads(1)
    setting = Setting(torch.device(kind), chosen.quick)
    results = measured(setting)
    print(json.dumps(results, indent=1, ensure_ascii=False))
    print(f"\n{table(results)}", file=sys.stderr)


if __name__ == "__main__":
    main()
