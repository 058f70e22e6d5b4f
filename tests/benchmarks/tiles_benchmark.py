"""Halo of tiled multislice against error, time and cost; one thread, single precision.

Run it alone: ``PYTHONPATH=tests/physics python tests/benchmarks/tiles_benchmark.py [side …]`` (1024 unless told). The
object is the hardest that a resolution of three pixels allows, squares with sharp edges, half a radian of phase (rms),
in 16 slices whatever its thickness. The errors are those of the scattered wave against the whole field. Times are the
shortest of three rounds in which whole and tiled fields take turns. The cost is the area of all tiles over the field's.
"""

import math
import sys
import time

import torch
from random_objects import delta_of_phase, squares
from torch import Tensor

from bluesky_multislice import optics

LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8}
SLICES, TILES, ROUNDS = 16, 4, 3
FRESNEL_PIXELS = (3, 6, 12)
"""√(λL)/Δx of the three thicknesses: 1.7, 6.7 and 27 depths of field."""

HALOS = (0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
"""In √(λL)."""


def exit_wave(parts: tuple[Tensor, ...], length_m: float, halo: int | None) -> Tensor:
    """Return the exit wave of the whole field, or of tiles with a halo."""
    optics_of = {"slice_thickness_m": length_m / SLICES, **LIGHT}
    with torch.no_grad():
        if halo is None:
            return optics.multislice(*parts, **optics_of)
        return optics.tiled_multislice(*parts, tiles=(TILES, TILES), halo=halo, **optics_of)


def thick_object(side: int, length_m: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return a plane wave, δ and β = 0."""
    delta = delta_of_phase(squares(SLICES, side), 0.5, wavelength_m=LIGHT["wavelength_m"], length_m=length_m).float()
    return torch.ones(1, side, side, dtype=torch.complex64), delta, torch.zeros_like(delta)


def measure(side: int, fresnel: int) -> None:
    """Print the table for one size of field and one thickness."""
    length_m = (fresnel * LIGHT["pixel_size_m"]) ** 2 / LIGHT["wavelength_m"]
    parts, halos = thick_object(side, length_m), [None, *(math.ceil(halo * fresnel) for halo in HALOS)]
    fields, times = {}, {halo: [] for halo in halos}
    for _ in range(ROUNDS):
        for halo in halos:
            start = time.perf_counter()
            fields[halo] = exit_wave(parts, length_m, halo)
            times[halo].append(time.perf_counter() - start)
    whole = fields[None]
    print(f"\n{side}² in {TILES} × {TILES} tiles, {fresnel**2 / 5.4:.1f} depths of field, √(λL) = {fresnel} pixels")
    print(f"whole field {1e3 * min(times[None]):8.0f} ms (up to {1e3 * max(times[None]):.0f})")
    print(f"{'halo, √(λL)':>12}{'pixels':>8}{'error %':>9}{'ms':>8}{'× whole':>9}{'cost':>7}")
    for halo, width in zip(halos[1:], HALOS, strict=True):
        error = float((fields[halo] - whole).norm() / (whole - whole.mean()).norm())
        cost = min(1 + 2 * halo * TILES / side, TILES) ** 2
        least = min(times[halo])
        print(f"{width:12g}{halo:8}{100 * error:9.2f}{1e3 * least:8.0f}{least / min(times[None]):9.2f}{cost:7.2f}")
    asked = (0.1, 0.05, 0.02)
    rule = [optics.halo_pixels(accuracy, distance_m=length_m, **LIGHT) for accuracy in asked]
    print("the rule:", ", ".join(f"{100 * a:g} % takes {halo} pixels" for a, halo in zip(asked, rule, strict=True)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in [int(argument) for argument in sys.argv[1:]] or [1024]:
        for number in FRESNEL_PIXELS:
            measure(size, number)
