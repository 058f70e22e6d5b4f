"""The text and the files that ``multislice inspect`` makes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.cli.plan_scan import number_text
from bluesky_multislice.errors import MultisliceError, ScanError
from bluesky_multislice.files import (
    FieldReport,
    FrameSample,
    ScanInspection,
    place_text,
    sample_frames,
    starter_instrument,
    write_inspection_picture,
)
from bluesky_multislice.jobs.schedulers import machine_of, read_site
from bluesky_multislice.measurement import Frames, Scan, ScanField, depth_of_field_m, pattern_warnings
from bluesky_multislice.planning import (
    MachineProfile,
    Plan,
    data_sheets,
    machine_name,
    make_plan,
    predict_cost,
    this_machine,
)
from bluesky_multislice.recipe import Recipe

_DIGITS = 6


@dataclass(frozen=True)
class Description:
    """What the command prints.

    Attributes:
        lines: the lines.
        sample: sample of the frames; None if there are none.
        usable: whether the scan can be reconstructed.
    """

    lines: list[str]
    sample: FrameSample | None
    usable: bool


def describe(inspection: ScanInspection, recipe: Recipe, site_file: Path | None) -> Description:
    """Return the description of an inspected scan.

    Args:
        inspection: the inspection.
        recipe: recipe of the reconstruction.
        site_file: profile of the machine; None: this machine.

    Raises:
        MultisliceError: the site profile cannot be read.
    """
    sample = None if inspection.frames is None else sample_frames(inspection.frames, recipe.saturated)
    problems = [*inspection.problems]
    if sample is not None and sample.error is not None:
        problems.append(sample.error)
    plan_lines, scan = list[str](), inspection.scan
    if scan is not None:
        try:
            plan_lines += _plan_lines(scan, recipe, site_file)
        except MultisliceError as error:
            problems.append(error)
    lines = [inspection.name, "", *_table(inspection.fields)]
    lines += ["", *_frame_lines(inspection, sample)]
    if scan is not None:
        lines += [*_geometry_lines(scan), *plan_lines]
        lines += [] if sample is None else [f"note: {note}" for note in _pattern_notes(scan, sample)]
    lines += [f"note: {warning}" for warning in inspection.warnings]
    lines += _assumed_lines(inspection.fields)
    failed = [report for report in inspection.fields if report.error is not None]
    for report in failed:
        lines += ["", *_error_lines(report)]
    for problem in problems:
        lines += ["", "UNUSABLE", *_parts(problem)]
    usable = not failed and not problems
    count = len(failed) + len(problems)
    lines += ["", "can be reconstructed" if usable else f"cannot be reconstructed: {count} to correct, see above"]
    return Description(lines, sample, usable)


def draw(path: Path, inspection: ScanInspection, sample: FrameSample | None) -> None:
    """Draw mean frame, mask, positions and angles of a scan, as far as they are known.

    Raises:
        ScanError: the picture cannot be written.
    """
    geometry = None if inspection.scan is None else inspection.scan.geometry
    position_m = _positions_m(inspection) if geometry is None else geometry.position_m
    angle_rad = _numbers(inspection.report("angle")) if geometry is None else geometry.angle_rad
    try:
        write_inspection_picture(
            path,
            None if sample is None else sample.mean,
            None if inspection.frames is None else _mask(inspection.frames),
            None if position_m is None else position_m * 1e6,
            None if angle_rad is None else np.degrees(angle_rad),
        )
    except OSError as error:
        raise ScanError("The picture must be writable.", got=f"{error}.", remedy="choose another path.") from error


def write_starter(path: Path, inspection: ScanInspection) -> None:
    """Write a starter instrument file.

    Raises:
        ScanError: the file exists, or cannot be written.
    """
    try:
        with path.open("x") as file:
            file.write(starter_instrument(inspection))
    except OSError as error:
        raise ScanError(
            "A starter instrument file must be a new, writable file.", got=f"{error}.", remedy="choose another path."
        ) from error


def _table(reports: tuple[FieldReport, ...]) -> Iterator[str]:
    """Yield the fields that were found, are missing or have a default; then the names of optional ones."""
    rows = [("field", "value", "where found")]
    for report in reports:
        if report.error is not None:
            rows.append((report.field.name, "MISSING" if report.missing else "UNUSABLE", "see below"))
        elif report.source:
            rows.append((report.field.name, value_text(report.field, report.value), report.source))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, source in rows:
        yield f"{name:{widths[0]}}  {value:{widths[1]}}  {source}"
    absent = [report for report in reports if report.error is None and not report.source and report.field.place]
    if absent:
        yield f"optional, not found: {', '.join(report.field.name for report in absent)}"
    for report in reports:
        for suggestion in report.suggestions[:1] if report.error is None else ():
            yield f"  {report.field.name} may be {suggestion.text}"


def _assumed_lines(reports: tuple[FieldReport, ...]) -> Iterator[str]:
    """Yield a note on the values that formats define for what is not recorded."""
    assumed = [report for report in reports if report.source.startswith("absent") and report.value is not None]
    if assumed:
        values = ", ".join(f"{report.field.name} {value_text(report.field, report.value)}" for report in assumed)
        yield f"note: not recorded, assumed: {values}"


def value_text(field: ScanField, value: Any) -> str:
    """Return a field's value with its unit: a number, a range, a word, or the shape of an array."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return " x ".join(str(part) for part in value)
    if field.kind == "other":
        return " x ".join(str(n) for n in np.shape(value)) or str(value)
    numbers = np.unique(np.ravel(np.asarray(value, float)))
    unit, factor = ("°", 180 / np.pi) if field.unit == "radian" else (field.unit or "", 1.0)
    texts = [_number(float(number) * factor, unit) for number in numbers[[0, -1]]]
    if len(numbers) == 1:
        return texts[0]
    return f"{texts[0]} to {texts[1]}, {np.size(value)} values"


def _number(value: float, unit: str) -> str:
    if unit in ("", "°") or not np.isfinite(value):
        return f"{value:.{_DIGITS}g}{unit}"
    return f"{number_text(value, _DIGITS)}{unit}"


def _frame_lines(inspection: ScanInspection, sample: FrameSample | None) -> Iterator[str]:
    frames = inspection.frames
    if frames is None:
        yield "frames: none that can be used"
        return
    stored, report = frames.source, inspection.report("frames")
    places = "" if report is None or not report.source else f", {report.source}"
    yield f"frames: {stored.shape[0]} of {stored.shape[1]} x {stored.shape[2]} pixels, {stored.dtype}{places}"
    yield (
        f"  {frames.views} of the sample, {len(frames.dark_rows)} darks, {len(frames.flat_rows)} flats; "
        f"orientation {frames.orientation}"
    )
    yield from _mask_lines(inspection, frames)
    if sample is not None and sample.count:
        good = sample.mean[frames.mask]
        yield (
            f"  mean of {sample.count} frames: {good.mean():.4g} per pixel, from {good.min():.4g} to {good.max():.4g}"
        )


def _mask(frames: Frames) -> NDArray[np.bool_] | None:
    """Return the mask (y, x) with the pixels that darks and flats exclude; None if these cannot be used."""
    try:
        return frames.mask
    except MultisliceError:  # The sample of the frames tells it.
        return None


def _mask_lines(inspection: ScanInspection, frames: Frames) -> Iterator[str]:
    mask = _mask(frames)
    if mask is None:
        return
    masked = int((~mask).sum())
    report = inspection.report("mask")
    source = "" if report is None or not report.source else f"; mask from {report.source}"
    yield f"  {masked} of {mask.size} pixels masked ({masked / mask.size:.2%}){source}"


def _geometry_lines(scan: Scan) -> Iterator[str]:
    geometry = scan.geometry
    angle_deg = np.unique(np.degrees(geometry.angle_rad))
    span = f"{angle_deg[0]:.6g}°" if len(angle_deg) == 1 else f"{angle_deg[0]:.6g}° to {angle_deg[-1]:.6g}°"
    yield f"angles: {len(angle_deg)}, {span}"
    extent_m, step_m = np.ptp(geometry.position_m, axis=0), _step_m(geometry.position_m, geometry.angle_rad)
    step = "" if step_m is None else f", step {number_text(step_m)}m (median distance of neighbours)"
    yield f"positions: extent {number_text(extent_m[0])}m in y, {number_text(extent_m[1])}m in x{step}"
    distance_m = np.unique(geometry.distance_m)
    distances = " to ".join(f"{number_text(float(one), 4)}m" for one in distance_m[[0, -1]][: len(distance_m)])
    magnification = float(geometry.magnification.max())
    effective = "" if magnification == 1 else f"; magnification {magnification:.4g}"
    yield f"distances: {len(distance_m)}, {distances}{effective}"


def _step_m(position_m: NDArray[np.float64], angle_rad: NDArray[np.float64]) -> float | None:
    """Return the median distance of neighbouring positions of the first angle; None for one position."""
    from scipy.spatial import KDTree

    here = np.unique(position_m[angle_rad == angle_rad[0]], axis=0)
    if len(here) < 2:
        return None
    return float(np.median(KDTree(here).query(here, k=2)[0][:, 1]))


def _plan_lines(scan: Scan, recipe: Recipe, site_file: Path | None) -> Iterator[str]:
    """Yield the depth of field beside the thickness, the plan in one line, and its notes."""
    machine = machine_of(read_site(site_file), recipe.resources)
    sheet = data_sheets()[machine_name(machine or this_machine(recipe.device))]
    # What a former result gives is not loaded for a look at the scan.
    plan = make_plan(recipe.model_copy(update={"start_from": None}), scan, machine, sheet.profile)
    pixel_m = scan.geometry.object_pixel_m[1]
    field_m = depth_of_field_m(pixel_m, scan.geometry.beam.wavelength_m)
    known = recipe.depth_um is not None or len(np.unique(scan.geometry.angle_rad)) > 1
    thickness = (
        f"volume {number_text(plan.grid.thickness_m)}m thick, {plan.depths_of_field:.2g} depths of field"
        if known
        else "thickness unknown (one angle, no depth_um)"
    )
    yield f"depth of field: {number_text(field_m)}m for object pixels of {number_text(pixel_m, 4)}m; {thickness}"
    time = _time_text(plan, scan, sheet.profile)
    yield (
        f"plan: {plan.ranks} rank(s) on {plan.device}, volume {plan.grid.shape} voxels (z, y, x) of "
        f"{number_text(plan.grid.voxel_size_m[2], 4)}m, {plan.slices} slice(s), {plan.propagation}, "
        f"{plan.epochs} epochs, {number_text(plan.memory_bytes)}B per rank, time about {time} (data sheet)"
    )
    yield from (f"note: {note}" for note in plan.notes)


def _time_text(plan: Plan, scan: Scan, profile: MachineProfile) -> str:
    """Return the predicted time of all fits."""
    total_s = 0.0
    for fit in (*plan.earlier, plan):
        seconds = predict_cost(fit, scan.geometry, accelerator=fit.device != "cpu", profile=profile).seconds
        if seconds is None:
            return "unknown"
        total_s += seconds.total * (fit.fit.epochs + fit.fit.polish)
    for unit, size in (("h", 3600), ("min", 60)):
        if total_s >= 2 * size:
            return f"{total_s / size:.2g} {unit}"
    return f"{total_s:.2g} s"


def _pattern_notes(scan: Scan, sample: FrameSample) -> list[str]:
    return pattern_warnings(scan.geometry, sample.mean, scan.probe) if sample.mean.any() else []


def _error_lines(report: FieldReport) -> Iterator[str]:
    """Yield the error of a field, and what an instrument file could say."""
    yield f"{'MISSING' if report.missing else 'UNUSABLE'} {report.field.name}"
    if report.error is not None:
        yield from _parts(report.error)
    for suggestion in report.suggestions:
        place = place_text(suggestion.as_place(report.field))
        yield f"  may be {suggestion.text}; instrument file: [fields.{report.field.name}] {place}"


def _parts(error: MultisliceError) -> Iterator[str]:
    yield from (f"  {part}: {getattr(error, part)}" for part in ("rule", "got", "remedy"))


def _positions_m(inspection: ScanInspection) -> NDArray[np.float64] | None:
    """Return the probe positions (view, 2), (y, x), of a scan that cannot be read as a whole; None: unknown."""
    columns = [_numbers(inspection.report(name)) for name in ("position_y", "position_x")]
    known = [-column for column in columns if column is not None]
    return np.stack(known, axis=1) if len(known) == 2 and known[0].shape == known[1].shape else None


def _numbers(report: FieldReport | None) -> NDArray[np.float64] | None:
    if report is None or report.value is None:
        return None
    numbers = np.ravel(np.asarray(report.value, float))
    return numbers if np.isfinite(numbers).all() else None
