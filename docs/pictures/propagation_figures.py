"""Draw the pictures of docs/propagation.md and print the figures in them; one thread, some minutes.

``PYTHONPATH=tests/physics python docs/pictures/propagation_figures.py``
"""

import functools
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from known_answers import centred, cylinder
from matplotlib.figure import Figure
from random_objects import OBJECTS, delta_of_phase, squares
from torch import Tensor

from bluesky_multislice import optics
from bluesky_multislice.measurement import depth_of_field_m

FOLDER = Path(__file__).parent
LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8}
DEPTH_OF_FIELD_M = depth_of_field_m(LIGHT["pixel_size_m"], LIGHT["wavelength_m"])
PLANES_A_DEPTH_OF_FIELD, N, PHASE_RAD = 16, 128, 0.5
WAYS: dict[str, tuple[Callable[..., Tensor], str]] = {
    "multislice": (optics.multislice, "C0"),
    "multislice, Fresnel": (functools.partial(optics.multislice, kernel="fresnel"), "C1"),
    "finite-difference-wide": (optics.PROPAGATIONS["finite-difference-wide"], "C2"),
    "finite-difference": (optics.finite_difference, "C3"),
    "finite difference, plain stencil": (functools.partial(optics.finite_difference, stencil="plain"), "C4"),
    "projection": (optics.projection, "C5"),
}


def scattered_error(field: Tensor, reference: Tensor) -> float:
    """Return the error of the scattered wave."""
    return float((field - reference).norm() / (reference - reference.mean()).norm())


def random_object(kind: str, depths_of_field: float, n: int = N, radians: float = PHASE_RAD) -> tuple[Tensor, float]:
    """Return δ in many thin planes, and the thickness of the whole."""
    planes = max(16, round(depths_of_field * PLANES_A_DEPTH_OF_FIELD / 16) * 16)
    length_m = depths_of_field * DEPTH_OF_FIELD_M
    pattern = OBJECTS[kind](planes, n)
    return delta_of_phase(pattern, radians, wavelength_m=LIGHT["wavelength_m"], length_m=length_m).float(), length_m


def through(way: Callable[..., Tensor], delta: Tensor, length_m: float, slices: int | None = None) -> Tensor:
    """Return the exit wave of a plane wave."""
    coarse = delta if slices is None else delta.unflatten(0, (slices, -1)).mean(1)
    wave = torch.ones(1, *delta.shape[-2:], dtype=torch.complex64)
    return way(wave, coarse, torch.zeros_like(coarse), slice_thickness_m=length_m / len(coarse), **LIGHT)


def draw_thickness() -> None:
    """Draw the error of every propagation against the thickness of the object."""
    depths = (0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32)
    figure = Figure(figsize=(10, 4), layout="constrained")
    titles = {"waves": "smooth, nothing finer than 3 pixels", "squares": "squares of 3 pixels, sharp edges"}
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        errors = {name: [] for name in WAYS if name not in ("multislice", "multislice, Fresnel")}
        for depth in depths:
            delta, length_m = random_object(kind, depth)
            reference = through(optics.multislice, delta, length_m)
            for name, found in errors.items():
                found.append(scattered_error(through(WAYS[name][0], delta, length_m), reference))
        for name, found in errors.items():
            axes.loglog(depths, found, "o-", color=WAYS[name][1], label=name)
            print(
                kind,
                name,
                " ".join(f"{depth}: {100 * error:.2f} %" for depth, error in zip(depths, found, strict=True)),
            )
        axes.axhline(0.06, color="grey", linestyle=":", label="accuracy 0.06")
        axes.axvline(1, color="grey", linewidth=0.8)
        axes.set(xlabel="thickness, depths of field of one pixel", title=title)
    figure.axes[0].set_ylabel("error of the scattered wave")
    figure.axes[0].legend(fontsize=8)
    figure.savefig(FOLDER / "propagation_thickness.png", dpi=100)


def draw_cost() -> None:
    """Draw what halo, slices and stencil trade."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    halo, slices, stencil = figure.subplots(1, 3)
    _draw_halo(halo)
    _draw_slices(slices)
    _draw_stencil(stencil)
    figure.savefig(FOLDER / "propagation_cost.png", dpi=100)


def _draw_halo(axes) -> None:
    n, tiles = 512, 4
    for fresnel, colour in ((3, "C0"), (6, "C1"), (12, "C2")):
        length_m = (fresnel * LIGHT["pixel_size_m"]) ** 2 / LIGHT["wavelength_m"]
        pattern = squares(8, n)
        delta = delta_of_phase(pattern, PHASE_RAD, wavelength_m=LIGHT["wavelength_m"], length_m=length_m).float()
        whole = through(optics.multislice, delta, length_m)
        halos = sorted({math.ceil(width * fresnel) for width in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6)})
        cost, errors = [], []
        for width in halos:
            tiled = functools.partial(optics.tiled_multislice, tiles=(tiles, tiles), halo=width)
            errors.append(scattered_error(through(tiled, delta, length_m), whole))
            cost.append((1 + 2 * width * tiles / n) ** 2)
        axes.semilogy(cost, errors, ".-", color=colour, label=f"{fresnel**2 / 5.4:.1f} depths of field")
        safe = halos.index(4 * fresnel)
        axes.semilogy(cost[safe], errors[safe], "o", color=colour, markersize=10, fillstyle="none")
    axes.set(xlabel="area of all tiles / area of the field", ylabel="error of the scattered wave")
    axes.set_title("halo (tiles of 128 pixels; ○ 4√(λL)/Δx)")
    axes.legend(fontsize=8)


def _draw_slices(axes) -> None:
    counts = (1, 2, 4, 8, 16, 32)
    for kind, radians, style in (("waves", 0.5, "C0o-"), ("waves", 3.0, "C0o--"), ("squares", 0.5, "C1s-")):
        delta, length_m = random_object(kind, 4, radians=radians)
        fine = through(optics.multislice, delta, length_m)
        errors = [scattered_error(through(optics.multislice, delta, length_m, count), fine) for count in counts]
        label = f"{'smooth' if kind == 'waves' else 'sharp'}, {radians:g} rad"
        axes.loglog([4 / count for count in counts], errors, style, label=label)
    accuracies = np.array([0.02, 0.4])
    thickest = [optics.thickest_slice_m(a, depth_of_field_m=1.0) for a in accuracies]
    axes.loglog(thickest, accuracies, "k:", label="rule (accuracy)")
    axes.set(xlabel="slice thickness, depths of field", ylabel="error of the scattered wave", title="slices")
    _tick(axes, (0.125, 0.25, 0.5, 1, 2, 4))
    axes.legend(fontsize=8)


def _draw_stencil(axes) -> None:
    n, depth, counts, rounds = 512, 4, (4, 8, 16, 32), 5
    delta, length_m = random_object("waves", depth, n)
    fine = through(optics.multislice, delta, length_m)
    works = {(name, count): [] for name in WAYS if name != "projection" for count in counts}
    errors = {}
    for _ in range(rounds):
        for (name, count), times in works.items():
            coarse = delta.unflatten(0, (count, -1)).mean(1)
            start = time.perf_counter()
            field = through(WAYS[name][0], coarse, length_m)
            times.append(1e3 * (time.perf_counter() - start))
            errors[name, count] = scattered_error(field, fine)
    for name in dict.fromkeys(name for name, _ in works):
        times, found = [min(works[name, count]) for count in counts], [errors[name, count] for count in counts]
        axes.loglog(times, found, "o-", color=WAYS[name][1], label=name)
        print(name, " ".join(f"{c}: {t:.0f} ms {100 * e:.2f} %" for c, t, e in zip(counts, times, found, strict=True)))
    axes.set(xlabel="time, ms (512², one thread)", ylabel="error of the scattered wave")
    axes.set_title(f"stencil, {depth} depths of field in {counts[0]} to {counts[-1]} slices")
    _tick(axes, (20, 50, 100, 200))
    axes.legend(fontsize=7)


def _tick(axes, numbers: tuple[float, ...]) -> None:
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.minorticks_off()


def draw_cylinder(radius: int = 160, width: int = 1024, delta: float = 0.01, wavelength: float = 0.992) -> None:
    """Draw the wave behind a strong thick cylinder against the exact answer, lengths in pixels."""
    x, fine = centred(width, 1.0), 8
    inside = centred(2 * radius * fine, 1 / fine)[:, None] ** 2 + centred(width * fine, 1 / fine) ** 2 < radius**2
    share = torch.as_tensor(inside.reshape(2 * radius, fine, width, fine).mean((1, 3)))[:, None]
    exact = cylinder(x, 2 * radius, radius, 1 - delta, wavelength)
    light = {"wavelength_m": wavelength, "pixel_size_m": (1.0, 1.0)}
    start, vacuum = torch.ones(1, 1, width, dtype=torch.complex128), torch.zeros(radius, 1, width, dtype=torch.float64)
    figure = Figure(figsize=(10, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(x, np.abs(exact), "k", linewidth=2.5, label="exact")
    for name, (way, colour) in WAYS.items():
        field = way(start, delta * share, 0 * share, slice_thickness_m=1.0, **light)
        if name.startswith("finite"):
            field = way(field, vacuum, vacuum, slice_thickness_m=1.0, **light)[0, 0].numpy()
        else:
            kernel = "fresnel" if "Fresnel" in name else "angular_spectrum"
            field = optics.propagate(field, distance_m=radius, kernel=kernel, **light)[0, 0].numpy()
        error = np.linalg.norm(field - exact) / np.linalg.norm(exact - 1)
        print("cylinder", name, f"{100 * error:.1f} %")
        if name in ("multislice", "projection"):
            top.plot(x, np.abs(field), color=colour, linewidth=1, label=name)
        smooth = np.sqrt(np.convolve(np.abs(field - exact) ** 2, np.full(9, 1 / 9), "same"))
        bottom.semilogy(x, smooth, color=colour, linewidth=1, label=f"{name}, {100 * error:.1f} %")
    top.set(xlim=(80, 260), ylabel="|wave|", title="One side of a cylinder of 160 pixels radius")
    bottom.set(xlabel="x, pixels", ylabel="|wave − exact|", ylim=(5e-3, 3))
    top.legend(fontsize=8)
    bottom.legend(fontsize=8, ncols=3, loc="upper left")
    figure.savefig(FOLDER / "propagation_cylinder.png", dpi=100)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    draw_cylinder()
    draw_thickness()
    draw_cost()
