"""Shifts of a holographic series: what remains of them before the fit, and what the search takes beside an epoch.

Start it with ``PYTHONPATH=tests:tests/physics OMP_NUM_THREADS=1 python tests/benchmarks/alignment_benchmark.py``. It
prints the table of docs/refinement.md: root mean square errors in pixels, and the misfit before and after. It takes
a few minutes, most of them for the simulation.
"""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from shifted_series import (
    Island,
    alignment_of,
    bounded_shifts,
    drift,
    errors_of,
    random_shifts,
    scan_of_distances,
    shifted,
)
from thick_hologram import Hologram

from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct

SMALL = Hologram(size=32, angles=24, distance=60, bodies=40, radii=(0.05, 0.12))
INSIDE = Island(size=64, angles=24, distance=60)
LARGE = Hologram(size=64, angles=48)

Case = tuple[str, NDArray[np.float64], float | None]


def show(name: str, phantom: Hologram, cases: list[Case]) -> None:
    """Print a row for each case: its name, the shifts, photons per pixel."""
    frames = phantom.frames()
    for case, shifts, photons in cases:
        show_row(name, case, phantom.scan(np.maximum(shifted(frames, shifts), 0), photons), shifts)


def show_row(name: str, case: str, scan: Scan, shifts: NDArray[np.float64]) -> None:
    """Print what the search leaves of the shifts of a scan."""
    found = alignment_of(scan)
    y, x = errors_of(found, shifts, np.unique(scan.geometry.angle_rad)).std(0)
    left = f"{y:.2f} | {x:.2f}" if found.is_better else "not shifted | not shifted"
    print(f"| {name} | {case} | {left} | {found.misfit_before:.3f} → {found.misfit:.3f} |", flush=True)


def cases_of(phantom: Hologram, *, rms: tuple[float, ...], drifts: float) -> Iterator[Case]:
    """Yield an aligned series, random shifts and a drift."""
    angles_rad = phantom.geometry().angle_rad
    yield "none", np.zeros((len(angles_rad), 2)), None
    for pixels in rms:
        yield f"random, {pixels:g} pixels rms", random_shifts(pixels, angles_rad), None
    yield f"drift by {drifts:g} pixels", drift(drifts, angles_rad), None


def show_seconds(phantom: Hologram) -> None:
    """Print the processor time of the search and of an epoch."""
    scan = phantom.scan(phantom.frames())
    start = time.process_time()
    alignment_of(scan)
    search = time.process_time() - start
    seconds = []
    with join_mesh("cpu") as mesh:
        for epochs in (1, 1, 4):  # The first compiles.
            plan = make_plan(Recipe(ranks=1, device="cpu", epochs=epochs, align=False), scan)
            start = time.process_time()
            reconstruct(scan, plan, mesh)
            seconds.append(time.process_time() - start)
    print(
        f"{phantom.size}³, {phantom.angles} angles: search {search:.1f} s, epoch {(seconds[2] - seconds[1]) / 3:.1f} s"
    )


def main() -> None:
    """Print the table and the times."""
    angles_rad = INSIDE.geometry().angle_rad
    print("| phantom | shifts | along y | along x | misfit |")
    print("| --- | --- | --- | --- | --- |")
    show("32³, 24 angles", SMALL, list(cases_of(SMALL, rms=(1, 2, 3), drifts=3)))
    two = (SMALL, replace(SMALL, distance=90))
    shifts = random_shifts(2, SMALL.geometry().angle_rad)
    show_row("32³, 24 angles, two distances", "random, 2 pixels rms", scan_of_distances(two, shifts), shifts)
    inside = list(cases_of(INSIDE, rms=(4,), drifts=12))
    inside += [(f"none, {n:g} photons per pixel", np.zeros((len(angles_rad), 2)), n) for n in (1e4, 300, 30)]
    inside += [(f"random, 4 pixels rms, {n:g} photons per pixel", random_shifts(4, angles_rad), n) for n in (1e4, 300)]
    inside += [(f"up to {pixels} pixels", bounded_shifts(pixels, angles_rad), None) for pixels in (10, 15)]
    show("32³ in frames of 64², 24 angles", INSIDE, inside)
    show("64³, 48 angles", LARGE, list(cases_of(LARGE, rms=(2,), drifts=4)))
    for phantom in (SMALL, LARGE):
        show_seconds(phantom)


if __name__ == "__main__":
    main()
