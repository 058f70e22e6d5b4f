"""What a person can do where a plan does not fit into memory, before it is tried and after it has failed."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from bluesky_multislice.errors import JobError, PlanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.optics.accelerator import device_name, free_memory, total_memory
from bluesky_multislice.planning.cost import host_memory_parts, with_memory
from bluesky_multislice.planning.machine import RESERVE, Machine
from bluesky_multislice.planning.memory_fit import fits, possible_slabs
from bluesky_multislice.planning.plan import Plan

_MOST_RANKS = 256
"""Ranks that are suggested at most."""

_SMALLER = 0.75
"""Memory of a plan that is suggested after one has run out of memory, over that of this one, at most."""

_SAID = ("out of memory", "can't allocate memory", "CUFFT_ALLOC_FAILED", "HIPFFT_ALLOC_FAILED")
"""What PyTorch and its libraries say where memory has run out and the type of the error does not tell."""


def check_memory(plan: Plan, geometry: ScanGeometry, machine: Machine) -> None:
    """Refuse a plan that needs more memory than it may count on.

    Args:
        plan: of the reconstruction.
        geometry: of the scan, as finely sampled as the plan says.
        machine: where the job computes.

    Raises:
        PlanError: a GPU, or a node, has too little memory; it says what would fit.
    """
    here = machine.sharing(plan.ranks)
    reserve = f", of which {RESERVE:.0%} stay free" if machine.accelerator else ""
    if not fits(plan, machine):
        raise PlanError(
            "The reconstruction must fit into memory.",
            got=f"{_gib(plan.memory_bytes * here)} for {here} ranks on a device with {_gib(machine.memory_bytes)}"
            f"{reserve}.",
            remedy=_remedy(plan, geometry, machine.accelerator, lambda other: fits(other, machine)),
        )
    if not machine.accelerator or machine.host_memory_bytes is None:
        return
    here = min(plan.ranks, machine.places_per_node)
    needed = host_memory_parts(plan, geometry).total * here
    if needed > machine.host_memory_bytes * (1 - RESERVE):
        raise PlanError(
            "What ranks on GPUs hold beside them must fit into their node's memory.",
            got=f"{_gib(needed)} for {here} ranks on a node with {_gib(machine.host_memory_bytes)}{reserve}.",
            remedy="use fewer ranks a node, or a mesh of more slabs, which share what a checkpoint is written from.",
        )


def out_of_memory(error: BaseException, plan: Plan, geometry: ScanGeometry, device: torch.device) -> JobError | None:
    """Return what to tell a person where a rank has run out of memory; None of other errors.

    Args:
        error: what was raised on this rank.
        plan: of the reconstruction.
        geometry: of the scan, as it was measured.
        device: where this rank computes.
    """
    said = str(error)
    told = isinstance(error, RuntimeError) and any(word in said for word in _SAID)
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or told):
        return None
    where = "of its node" if device.type == "cpu" else f"of {device_name(device)} ({device})"
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    least, first_line = _SMALLER * plan.memory_bytes, said.splitlines()[0] if said else repr(error)
    return JobError(
        "A rank's part of the reconstruction must fit into memory.",
        got=f"the memory {where} has run out: {_gib(plan.memory_bytes)} were planned for a rank, of "
        f"{_gib(total_memory(device))} {_gib(free_memory(device))} are free ({first_line}).",
        remedy=_remedy(plan, sampled, device.type != "cpu", lambda other: other.memory_bytes <= least),
    )


def _remedy(plan: Plan, geometry: ScanGeometry, accelerator: bool, serves: Callable[[Plan], bool]) -> str:
    """Return which single changes of a plan serve; beside them, what always takes less memory."""
    always = "a smaller depth_um or binned frames"
    found = [
        f"{how} ({_gib(other.memory_bytes)} a rank)"
        for how, other in _first_of_each_kind(plan, geometry, accelerator, serves)
    ]
    if not found:
        return f"use {always}, with fewer batch_views and, on GPUs, more ranks; no one of these changes alone will do."
    return f"what would fit: {'; or '.join(found)}; or {always}."


def _first_of_each_kind(
    plan: Plan, geometry: ScanGeometry, accelerator: bool, serves: Callable[[Plan], bool]
) -> Iterator[tuple[str, Plan]]:
    """Return of every kind of change the smallest that serves, with the words for it and the plan that it gives."""
    more_ranks = _more_ranks(plan) if accelerator else ()
    for kind in (_recomputed(plan), _smaller_batches(plan), _more_slabs(plan), more_ranks):
        for how, changed in kind:
            other = with_memory(changed, geometry, accelerator)
            if serves(other):
                yield how, other
                break


def _recomputed(plan: Plan) -> Iterator[tuple[str, Plan]]:
    if plan.gradient == "stored":
        yield "recomputed waves, as they are planned for a smaller gpu_memory_gb", replace(plan, gradient="recomputed")


def _smaller_batches(plan: Plan) -> Iterator[tuple[str, Plan]]:
    views = plan.fit.batch_views // 2
    while views >= 1:
        yield f"batch_views {views}", replace(plan, fit=replace(plan.fit, batch_views=views))
        views //= 2


def _more_slabs(plan: Plan) -> Iterator[tuple[str, Plan]]:
    for slabs in possible_slabs(plan, plan.ranks):
        if slabs > plan.slabs:
            yield f"mesh {plan.ranks // slabs}x{slabs}", replace(plan, slabs=slabs, frame_tiles=None)


def _more_ranks(plan: Plan) -> Iterator[tuple[str, Plan]]:
    ranks = 2 ** math.ceil(math.log2(plan.ranks + 1))
    while ranks <= _MOST_RANKS:
        if ranks in possible_slabs(plan, ranks):
            yield f"{ranks} ranks as mesh 1x{ranks}", replace(plan, ranks=ranks, slabs=ranks, frame_tiles=None)
        ranks *= 2


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
