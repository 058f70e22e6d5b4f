"""The text that ``multislice plan`` prints."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bluesky_multislice.cli.former_argument import stage_former
from bluesky_multislice.errors import PlanError
from bluesky_multislice.files import read_scan
from bluesky_multislice.jobs.schedulers import machine_of, read_site
from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.planning import (
    RESERVE,
    Machine,
    MachineProfile,
    MemoryParts,
    Plan,
    Prediction,
    data_sheets,
    host_memory_parts,
    machine_name,
    make_plan,
    predict_cost,
    this_machine,
)
from bluesky_multislice.recipe import Recipe, read_instrument
from bluesky_multislice.units import wavelength_m_from_energy

_PATTERN_PIXEL_M = 75e-6
_MEMORY = {
    "volumes": "volume, gradient, optimiser state",
    "frames": "frames",
    "batch": "slices and waves of a batch",
    "rotations": "rotation matrices or interpolation neighbours",
    "propagators": "propagators",
    "transforms": "FFT work area",
    "graphs": "captured CUDA graphs of the slices",
    "allocator": "overhead of the allocator",
    "context": "GPU context",
    "checkpoint": "checkpoint being written",
    "program": "program",
    "libraries": "libraries for the initial guess",
    "exchange": "communication buffers",
}


def plan_lines(
    scan_file: Path | None, own: Mapping[str, Any], recipe: Recipe, profile: MachineProfile | None
) -> list[str]:
    """Return the lines that describe a plan.

    Args:
        scan_file: the interchange file; None: plan the sizes in ``own``.
        own: options of the command, by name.
        recipe: recipe of the reconstruction.
        profile: measured times; None: times from a data sheet.

    Raises:
        MultisliceError: the scan or the recipe cannot be used, or the reconstruction does not fit into memory.
    """
    if scan_file is None:
        scan = scan_of_sizes(own)
    else:
        instrument = None if own["instrument_file"] is None else read_instrument(own["instrument_file"])
        scan = read_scan(scan_file, values=recipe.scan, instrument=instrument, frames=recipe.frames)
    scan, recipe = _with_former(scan, recipe, sized=scan_file is None)
    site = machine_of(read_site(own["site_file"]), recipe.resources)
    if own["gpu_memory_gb"] is not None or own["machine"] not in (None, "cpu-node"):
        ranks = recipe.ranks or math.prod(int(number) for number in (recipe.mesh or "1x1").split("x"))
        memory_gb = own["gpu_memory_gb"] or data_sheets()[own["machine"]].memory_gb
        site = Machine(ranks, ranks, int(memory_gb * 1e9), accelerator=True)
    sheet = data_sheets()[own["machine"] or machine_name(site or this_machine(recipe.device))]
    times = profile or sheet.profile
    plan = make_plan(recipe, scan, site, times)
    predicted = predict_cost(plan, scan.geometry, accelerator=plan.device != "cpu", profile=times)
    memory = _memory(plan, scan.geometry, predicted)
    return [*_overview(plan, scan), "", *memory, "", *_epoch(plan, predicted, times)]


def _with_former(scan: Scan, recipe: Recipe, *, sized: bool) -> tuple[Scan, Recipe]:
    """Return scan and recipe with the former result; sizes are planned without it."""
    if recipe.start_from is None:
        return scan, recipe
    if sized:
        return scan, recipe.model_copy(update={"start_from": None})
    with tempfile.TemporaryDirectory() as folder:
        former = stage_former(recipe.start_from, Path(folder) / "former.h5")
    return replace(scan, former=former), recipe


def scan_of_sizes(own: Mapping[str, Any]) -> Scan:
    """Return a scan with empty frames: holograms, or diffraction patterns on a square grid of positions.

    Raises:
        PlanError: the number of positions is not a square, or the frame size does not match the technique.
    """
    side, angles, positions = own["volume"], own["angles"] or 180, own["views_per_angle"] or 1
    frame, rows = own["frame"] or side, math.isqrt(positions)
    if rows**2 != positions:
        raise PlanError(
            "The number of views per angle must be a square number.",
            got=f"{positions} views per angle.",
            remedy="give a square number, such as --views-per-angle 81.",
        )
    if frame > side or (positions == 1) != (frame == side):
        raise PlanError(
            "Frames must be as large as the volume for one view per angle, and smaller for several.",
            got=f"{positions} views per angle of {frame} pixels per side, for {side} voxels per side.",
            remedy="omit --frame and --views-per-angle, or give both, such as --frame 64 --views-per-angle 81.",
        )
    pixel_m, wavelength_m = own["pixel_nm"] * 1e-9, wavelength_m_from_energy(own["energy_kev"] * 1e3)
    far = positions > 1
    pitch_m = _PATTERN_PIXEL_M if far else pixel_m
    detector = Detector((frame, frame), (pitch_m, pitch_m), "far_field" if far else "near_field")
    # Near field: the finest detail diffracts by an eighth of the hologram's width.
    distance_m = pixel_m * frame * _PATTERN_PIXEL_M / wavelength_m if far else frame * pixel_m**2 / (4 * wavelength_m)
    steps_m = (np.linspace(0, side - frame, rows) - (side - frame) / 2) * pixel_m
    position_m = np.stack(np.meshgrid(steps_m, steps_m, indexing="ij"), -1).reshape(-1, 2)
    views = angles * positions
    geometry = ScanGeometry(
        technique="ptychography" if far else "holography",
        beam=Beam(wavelength_m),
        detector=detector,
        distance_m=np.full(views, distance_m),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, positions),
        position_m=np.tile(position_m, (angles, 1)),
    )
    return Scan(geometry, Frames(np.broadcast_to(np.zeros(1, np.float32), (views, frame, frame))))


def profile_lines(profile: MachineProfile) -> list[str]:
    """Return the lines that describe the measured times of a machine."""
    rate, matrix_ns = profile.exchange_bytes_per_s, profile.rotation_matrix_seconds_per_pixel * 1e9
    volume_ns, slices_ns = profile.rotation_seconds_per_voxel * 1e9, profile.slice_rotation_seconds_per_voxel * 1e9
    step_ns, prior_ns = profile.optimiser_seconds_per_voxel * 1e9, profile.regulariser_seconds_per_voxel * 1e9
    return [
        f"{profile.machine}, {profile.device}, {profile.threads} thread(s)",
        *(
            f"{side}²: FFT pair {profile.fft_pair_s[side] * 1e3:.3g} ms, with multislice {seconds * 1e3:.3g} ms"
            for side, seconds in profile.slice_pair_s.items()
        ),
        f"rotation: {volume_ns:.3g} ns per voxel, {slices_ns:.3g} ns per voxel of the slices; "
        f"new angle {matrix_ns:.3g} ns per pixel of a plane; {profile.batch_s * 1e3:.3g} ms per batch",
        f"step: {step_ns:.3g} ns per voxel, and {prior_ns:.3g} ns per voxel with total variation",
        "communication: not measured" if rate is None else f"communication: {rate / 1e9:.3g} GB/s per rank",
    ]


def _overview(plan: Plan, scan: Scan) -> Iterator[str]:
    yield (
        f"volume {plan.grid.shape} voxels (z, y, x) of {plan.grid.voxel_size_m[2] * 1e9:.4g} nm, {plan.slices} slices, "
        f"{plan.propagation}, waves {plan.gradient}"
    )
    views, angles = scan.geometry.views, len(np.unique(scan.geometry.angle_rad))
    yield f"{views} views at {angles} angles, batches of {plan.fit.batch_views}, frames in {plan.frames_in}"
    batches = plan.lanes * plan.fit.batches_per_lane
    yield (
        f"mesh {plan.ranks // plan.slabs}x{plan.slabs} (angle x slab), {batches} batches per step, "
        f"{plan.fit.epochs} epochs of {plan.fit.optimiser}"
    )
    yield from (f"note: {note}" for note in (*scan.warnings, *plan.notes))


def _memory(plan: Plan, geometry: ScanGeometry, predicted: Prediction) -> Iterator[str]:
    if plan.device == "cpu":
        yield from _parts("memory per rank", predicted.memory)
        return
    yield from _parts("GPU memory per rank", predicted.memory)
    yield f"  {RESERVE:.0%} of the GPU memory are kept free as a reserve"
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    yield from _parts("host memory per rank", host_memory_parts(plan, sampled))


def _parts(title: str, memory: MemoryParts) -> Iterator[str]:
    yield f"{title:22} {number_text(memory.total):>10}B"
    for part in fields(memory):
        if size := getattr(memory, part.name):
            yield f"  {number_text(size):>10}B  {_MEMORY[part.name]}"


def _epoch(plan: Plan, predicted: Prediction, profile: MachineProfile) -> Iterator[str]:
    exchange, work, seconds = predicted.exchange, predicted.work, predicted.seconds
    yield f"sent per epoch         {number_text(predicted.sent_bytes):>10}B by all ranks"
    gathered = f"({number_text(exchange.strips)}B if views gathered strips)"
    yield f"  {number_text(exchange.rows):>10}B  rows and their gradients {gathered}"
    yield f"  {number_text(exchange.priors):>10}B  rows for regularisers"
    yield f"  {number_text(predicted.gradients):>10}B  gradients of groups that share views"
    yield (
        f"FFT pairs per epoch    {work.pairs:>10,.0f}, at most {work.most_pairs:,.0f} per rank, in {work.steps} steps"
    )
    if seconds is None or predicted.useful is None:
        yield "time per epoch: unknown, because a profile contains no times of finite differences"
        return
    hours = seconds.total * plan.fit.epochs / 3600
    sent = "communication not measured" if seconds.exchange is None else f"communication {seconds.exchange:.3g} s"
    yield (
        f"time per epoch         {seconds.total:>10.3g} s: slices {seconds.slices:.3g} s, "
        f"batches {seconds.batches:.3g} s, rotations {seconds.rotations:.3g} s, steps {seconds.steps:.3g} s, {sent}; "
        f"{plan.fit.epochs} epochs {hours:.3g} h"
    )
    yield f"useful work            {100 * predicted.useful:>10.3g} % of the time: FFTs of the gradient"
    source = "measured" if profile.measured else "from the data sheet, not measured"
    yield f"machine                {profile.machine}, times {source}"


def number_text(value: float, digits: int = 3) -> str:
    """Return a number with significant digits and an SI prefix, such as ``1.34 G``."""
    if value == 0:
        return "0 "
    power = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), -3), 6)
    return f"{value / 1000.0**power:.{digits}g} {'nµm kMGTPE'[power + 3].strip()}"
