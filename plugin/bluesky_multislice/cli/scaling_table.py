"""Table of predicted costs of typical scans on one to many GPUs, with small batches and with the planned batches."""

from collections.abc import Iterator
from typing import Any

from bluesky_multislice.cli.plan_scan import number_text, scan_of_sizes
from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan
from bluesky_multislice.planning import (
    DataSheet,
    Machine,
    Plan,
    Prediction,
    make_plan,
    predict_cost,
    small_steps,
)
from bluesky_multislice.recipe import Recipe

_SIDES = (256, 512, 1024, 2048)
_GPUS = (1, 8, 64)
_POSITIONS = 400


def scaling_lines(sheet: DataSheet, sides: tuple[int, ...] = _SIDES, gpus: tuple[int, ...] = _GPUS) -> Iterator[str]:
    """Yield the lines of a Markdown table.

    Args:
        sheet: data sheet of the GPU.
        sides: voxels per side of the volumes.
        gpus: numbers of GPUs.
    """
    yield (
        f"{sheet.name}, {sheet.memory_gb:g} GB, {sheet.ranks_per_node} per node; from the data sheet, not measured. "
        "Holograms: 0.88 angles per voxel of the side. Patterns: frames a quarter as wide as the volume, "
        f"{_POSITIONS} per angle, 0.7 angles per voxel of the side. (small): with small batches."
    )
    yield ""
    yield (
        "| scan | GPUs | mesh | memory | sent (small) | sent | epoch (small) | epoch | fit (small) | fit "
        "| useful (small) | useful | efficiency |"
    )
    yield "| --- " * 13 + "|"
    for technique in ("holograms", "patterns"):
        for side in sides:
            yield from _rows(technique, side, sheet, gpus)


def _rows(technique: str, side: int, sheet: DataSheet, gpus: tuple[int, ...]) -> Iterator[str]:
    scan, reference = _scan(technique, side), None
    for count in gpus:
        try:
            plan, cost = _planned(scan, sheet, count, Recipe())
            small, small_cost = _planned(scan, sheet, count, small_steps(plan, scan.geometry, Recipe()))
        except PlanError:
            yield f"| {side}³ {technique} | {count} | does not fit " + "| – " * 10 + "|"
            continue
        seconds, small_seconds = _fit_s(plan, cost), _fit_s(small, small_cost)
        # The efficiency is relative to the smallest number of GPUs on which the reconstruction fits.
        reference = reference or count * seconds
        yield " | ".join(
            (
                f"| {side}³ {technique}",
                str(count),
                f"{plan.ranks // plan.slabs}x{plan.slabs}",
                f"{number_text(plan.memory_bytes)}B",
                f"{number_text(small_cost.sent_bytes)}B",
                f"{number_text(cost.sent_bytes)}B",
                _seconds_text(small_seconds / small.fit.epochs),
                _seconds_text(seconds / plan.fit.epochs),
                _seconds_text(small_seconds),
                _seconds_text(seconds),
                f"{100 * (small_cost.useful or 0):.2g} %",
                f"{100 * (cost.useful or 0):.2g} %",
                f"{100 * reference / (count * seconds):.0f} % |",
            )
        )


def _scan(technique: str, side: int) -> Scan:
    sizes: dict[str, Any] = {"volume": side, "pixel_nm": 10.0, "energy_kev": 12.4, "frame": None}
    if technique == "holograms":
        return scan_of_sizes(sizes | {"angles": round(0.88 * side), "views_per_angle": None})
    return scan_of_sizes(sizes | {"angles": round(0.7 * side), "frame": side // 4, "views_per_angle": _POSITIONS})


def _planned(scan: Scan, sheet: DataSheet, gpus: int, recipe: Recipe) -> tuple[Plan, Prediction]:
    machine = Machine(gpus, min(gpus, sheet.ranks_per_node), int(sheet.memory_gb * 1e9), accelerator=True)
    plan = make_plan(recipe.model_copy(update={"ranks": gpus}), scan, machine, sheet.profile)
    return plan, predict_cost(plan, scan.geometry, accelerator=True, profile=sheet.profile)


def _fit_s(plan: Plan, cost: Prediction) -> float:
    return plan.fit.epochs * (cost.seconds.total if cost.seconds else 0.0)


def _seconds_text(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 6000 else f"{seconds / 3600:.3g} h"
