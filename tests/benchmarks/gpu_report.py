"""What the GPU benchmark's figures should be, and the table that says whether they are."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Figures = dict[str, Any]

ACCURACY = 1e-5
"""Most that single precision may differ from double, relative."""

FIT_ACCURACY = 1e-4
"""Most that a fit's volume may differ from the processor's, relative: Fourier transforms round in other orders."""

SLICE_OVER_FFT = 1.5
"""Most time of a slice, forward and adjoint, over that of the two FFT pairs that it needs at least."""

SHARE_OF_COPY = 0.7
"""Least share of a copy's bandwidth that the least traffic of a slice takes place at."""

SHARE_OF_TIME = 0.9
"""Least share of an epoch in which the device computes."""

LARGE = 8 * 512**2
"""Pixels of a batch from which on the goals of slices hold; smaller ones wait for launches."""


@dataclass(frozen=True)
class Goal:
    """A goal, what was found, and whether it is met; None where the figure is missing."""

    what: str
    goal: str
    found: str
    met: bool | None


def goals(results: dict[str, Figures]) -> Iterator[Goal]:
    """Yield the goals of what was measured."""
    for section, bound in (("propagations", ACCURACY), ("rotation", ACCURACY), ("fits", FIT_ACCURACY)):
        for name, found in _figures(results, section):
            yield Goal(f"{section}: {name}", f"≤ {bound:.0e}", f"{found:.1e}", found <= bound)
    for name, found in _figures(results, "slices"):
        why_no_accelerator = "small" if found["pixels"] < LARGE else "" if name.endswith(", auto") else "for comparison"
        for what, goal, met in (
            ("over_fft", f"≤ {SLICE_OVER_FFT} × FFT", found["over_fft"] <= SLICE_OVER_FFT),
            ("share_of_copy", f"≥ {SHARE_OF_COPY:.0%} of copy", found["share_of_copy"] >= SHARE_OF_COPY),
        ):
            yield Goal(
                f"slices: {name}",
                f"none: {why_no_accelerator}" if why_no_accelerator else goal,
                f"{found[what]:.2f}",
                None if why_no_accelerator else met,
            )
    for name, found in _figures(results, "epochs"):
        share = found["share_on_device"]
        met = None if share is None else share >= SHARE_OF_TIME
        yield Goal(
            f"epochs: {name}", f"≥ {SHARE_OF_TIME:.0%} on device", "unknown" if share is None else f"{share:.0%}", met
        )
        peak, planned = found["peak_memory_bytes"], found["planned_memory_bytes"]
        if peak is not None:
            memory = f"{peak / 2**20:.0f} of {planned / 2**20:.0f} MiB"
            yield Goal(f"epochs: {name}", "memory ≤ plan", memory, peak <= planned)


def _figures(results: dict[str, Figures], section: str) -> list[tuple[str, Any]]:
    found = results.get(section, {})
    return [] if "error" in found else list(found.items())


def table(results: dict[str, Figures]) -> str:
    """Return the report: goals, other figures, and what failed."""
    found = list(goals(results))
    rows = [("", "goal", "found", "")] + [
        (each.what, each.goal, each.found, {True: "met", False: "MISSED", None: ""}[each.met]) for each in found
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for section in results:
        if "error" in results[section]:
            lines.append(f"{section} FAILED: {results[section]['error']}")
        elif section not in ("propagations", "rotation", "fits", "slices", "epochs"):
            lines.append(f"{section}: {json.dumps(results[section], ensure_ascii=False)}")
    missed = sum(each.met is False for each in found)
    lines.append(f"{sum(each.met is True for each in found)} goals met, {missed} missed")
    return "\n".join(lines)
