"""What ``multislice plan`` prints."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

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
    "volumes": "volume, gradient, optimiser's state",
    "frames": "frames",
    "batch": "planes and waves of a batch",
    "rotations": "matrices or neighbours of rotations",
    "propagators": "propagators",
    "transforms": "work area of Fourier transforms",
    "graphs": "captured graphs of the slices",
    "allocator": "held by the allocator beside tensors",
    "context": "context of the GPU",
    "checkpoint": "checkpoint on its way",
    "program": "program",
    "libraries": "libraries of the first volume",
    "exchange": "exchange among ranks",
}


def plan_lines(
    scan_file: Path | None, own: Mapping[str, Any], recipe: Recipe, profile: MachineProfile | None
) -> list[str]:
    """Return the lines of a plan.

    Args:
        scan_file: the interchange file; None plans the sizes in ``own``.
        own: options of the command, by name.
        recipe: how to reconstruct.
        profile: measured times; None takes those of a data sheet.

    Raises:
        MultisliceError: the scan or the recipe cannot be used, or does not fit into memory.
    """
    if scan_file is None:
        scan = scan_of_sizes(own)
    else:
        instrument = None if own["instrument_file"] is None else read_instrument(own["instrument_file"])
        scan = read_scan(scan_file, values=recipe.scan, instrument=instrument)
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
    return [*_what(plan, scan), "", *memory, "", *_epoch(plan, predicted, times)]


def scan_of_sizes(own: Mapping[str, Any]) -> Scan:
    """Return a scan without light or memory: holograms, or patterns of positions on a square of the sample.

    Raises:
        PlanError: positions form no square, or frames are larger than the volume.
    """
    side, angles, positions = own["volume"], own["angles"] or 180, own["views_an_angle"] or 1
    frame, rows = own["frame"] or side, math.isqrt(positions)
    if rows**2 != positions or frame > side or (positions == 1) != (frame == side):
        raise PlanError(
            "Holograms are as large as the volume, one an angle; patterns are smaller, a square number at each angle.",
            got=f"{positions} views an angle of {frame} pixels a side, for {side} voxels a side.",
            remedy="leave --frame and --views-an-angle out, or give both, such as --frame 64 --views-an-angle 81.",
        )
    pixel_m, wavelength_m = own["pixel_nm"] * 1e-9, wavelength_m_from_energy(own["energy_kev"] * 1e3)
    far = positions > 1
    pitch_m = _PATTERN_PIXEL_M if far else pixel_m
    detector = Detector((frame, frame), (pitch_m, pitch_m), "far_field" if far else "near_field")
    # The finest detail's light goes an eighth of a hologram to the side.
    distance_m = pixel_m * frame * _PATTERN_PIXEL_M / wavelength_m if far else frame * pixel_m**2 / (4 * wavelength_m)
    at = (np.linspace(0, side - frame, rows) - (side - frame) / 2) * pixel_m
    at = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    views = angles * positions
    geometry = ScanGeometry(
        technique="ptychography" if far else "holography",
        beam=Beam(wavelength_m),
        detector=detector,
        distance_m=np.full(views, distance_m),
        angle_rad=np.repeat(np.arange(angles) * np.pi / angles, positions),
        position_m=np.tile(at, (angles, 1)),
    )
    return Scan(geometry, Frames(np.broadcast_to(np.zeros(1, np.float32), (views, frame, frame))))


def profile_lines(profile: MachineProfile) -> list[str]:
    """Return the lines of a measured machine."""
    rate, matrix_ns = profile.exchange_bytes_per_s, profile.rotation_matrix_seconds_per_pixel * 1e9
    volume_ns, slices_ns = profile.rotation_seconds_per_voxel * 1e9, profile.slice_rotation_seconds_per_voxel * 1e9
    step_ns, prior_ns = profile.optimiser_seconds_per_voxel * 1e9, profile.regulariser_seconds_per_voxel * 1e9
    return [
        f"{profile.machine}, {profile.device}, {profile.threads} thread(s)",
        *(
            f"{side}²: FFT pair {profile.fft_pair_s[side] * 1e3:.3g} ms, in multislice {seconds * 1e3:.3g} ms"
            for side, seconds in profile.slice_pair_s.items()
        ),
        f"turn: {volume_ns:.3g} ns a voxel, {slices_ns:.3g} ns one of slices; "
        f"a new angle {matrix_ns:.3g} ns a pixel of a plane; a batch {profile.batch_s * 1e3:.3g} ms besides",
        f"step: {step_ns:.3g} ns a voxel, {prior_ns:.3g} ns with total variation besides",
        "exchange: not measured" if rate is None else f"exchange: {rate / 1e9:.3g} GB/s a rank",
    ]


def _what(plan: Plan, scan: Scan) -> Iterator[str]:
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
    yield from (f"note: {note}" for note in plan.notes)


def _memory(plan: Plan, geometry: ScanGeometry, predicted: Prediction) -> Iterator[str]:
    if plan.device == "cpu":
        yield from _parts("memory of a rank", predicted.memory)
        return
    yield from _parts("memory of a rank's GPU", predicted.memory)
    yield f"  {RESERVE:.0%} of a GPU's memory are a reserve, which no plan counts on"
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    yield from _parts("memory of its node", host_memory_parts(plan, sampled))


def _parts(whose: str, memory: MemoryParts) -> Iterator[str]:
    yield f"{whose:22} {number_text(memory.total):>10}B"
    for part in fields(memory):
        if size := getattr(memory, part.name):
            yield f"  {number_text(size):>10}B  {_MEMORY[part.name]}"


def _epoch(plan: Plan, predicted: Prediction, profile: MachineProfile) -> Iterator[str]:
    exchange, work, seconds = predicted.exchange, predicted.work, predicted.seconds
    yield f"sent in an epoch       {number_text(predicted.sent_bytes):>10}B of all ranks"
    gathered = f"({number_text(exchange.strips)}B if views gathered strips)"
    yield f"  {number_text(exchange.rows):>10}B  rows and their gradients {gathered}"
    yield f"  {number_text(exchange.priors):>10}B  rows for regularisers"
    yield f"  {number_text(predicted.gradients):>10}B  gradients of groups that share views"
    yield (
        f"FFT pairs in an epoch  {work.pairs:>10,.0f}, {work.most_pairs:,.0f} of the rank that has most, in "
        f"{work.steps} steps"
    )
    if seconds is None or predicted.useful is None:
        yield "time of an epoch: not known, a profile does not measure finite differences"
        return
    hours = seconds.total * plan.fit.epochs / 3600
    sent = "exchange not measured" if seconds.exchange is None else f"exchange {seconds.exchange:.3g} s"
    yield (
        f"time of an epoch       {seconds.total:>10.3g} s: slices {seconds.slices:.3g} s, "
        f"batches {seconds.batches:.3g} s, rotations {seconds.rotations:.3g} s, steps {seconds.steps:.3g} s, {sent}; "
        f"{plan.fit.epochs} epochs {hours:.3g} h"
    )
    yield f"useful work            {100 * predicted.useful:>10.3g} % of it: FFTs of the gradient"
    source = "measured" if profile.measured else "from the data sheet, not measured"
    yield f"times of               {profile.machine}, {source}"


def number_text(value: float) -> str:
    """Return three digits with an SI prefix, such as ``1.34 G``."""
    if value == 0:
        return "0 "
    power = min(max(math.floor(math.log10(abs(value)) / 3 + 1e-12), -3), 6)
    return f"{value / 1000.0**power:.3g} {'nµm kMGTPE'[power + 3].strip()}"
