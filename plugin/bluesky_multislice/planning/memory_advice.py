"""Remedies for a plan that does not fit into memory, when it is made and after a failure."""

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
"""Largest number of ranks to suggest."""

_SMALLER = 0.75
"""Largest memory of a suggested plan, relative to the plan that ran out of memory."""

_OUT_OF_MEMORY_MESSAGES = ("out of memory", "can't allocate memory", "CUFFT_ALLOC_FAILED", "HIPFFT_ALLOC_FAILED")
"""Messages of PyTorch and its libraries after a failed allocation whose error type is not specific."""


def check_memory(plan: Plan, geometry: ScanGeometry, machine: Machine) -> None:
    """Check that a plan fits into the usable memory.

    Args:
        plan: plan of the reconstruction.
        geometry: geometry of the scan, sampled as in the plan.
        machine: machine of the job.

    Raises:
        PlanError: a GPU or a node has too little memory; the remedy names changes that would fit.
    """
    ranks = machine.sharing(plan.ranks)
    reserve = f", of which {RESERVE:.0%} stay free" if machine.accelerator else ""
    if not fits(plan, machine):
        raise PlanError(
            "The reconstruction must fit into memory.",
            got=f"{_gib(plan.memory_bytes * ranks)} for {ranks} ranks on a device with {_gib(machine.memory_bytes)}"
            f"{reserve}.",
            remedy=_remedy(plan, geometry, machine.accelerator, lambda other: fits(other, machine)),
        )
    if not machine.accelerator or machine.host_memory_bytes is None:
        return
    ranks = min(plan.ranks, machine.places_per_node)
    needed = host_memory_parts(plan, geometry).total * ranks
    if needed > machine.host_memory_bytes * (1 - RESERVE):
        raise PlanError(
            "The host memory of ranks on GPUs must fit into their node's memory.",
            got=f"{_gib(needed)} for {ranks} ranks on a node with {_gib(machine.host_memory_bytes)}{reserve}.",
            remedy="use fewer ranks per node, or a mesh with more slabs, which divide the data of a checkpoint.",
        )


def out_of_memory(error: BaseException, plan: Plan, geometry: ScanGeometry, device: torch.device) -> JobError | None:
    """Return the error for a rank that has run out of memory; None for other errors.

    Args:
        error: exception raised on this rank.
        plan: plan of the reconstruction.
        geometry: geometry of the scan.
        device: device of this rank.
    """
    message = str(error)
    known = isinstance(error, RuntimeError) and any(text in message for text in _OUT_OF_MEMORY_MESSAGES)
    if not (isinstance(error, torch.OutOfMemoryError | MemoryError) or known):
        return None
    where = "of its node" if device.type == "cpu" else f"of {device_name(device)} ({device})"
    sampled = geometry.coarser(plan.coarseness).oversampled(plan.oversampling)
    least, first_line = _SMALLER * plan.memory_bytes, message.splitlines()[0] if message else repr(error)
    return JobError(
        "A rank's part of the reconstruction must fit into memory.",
        got=f"the memory {where} is exhausted: the plan has {_gib(plan.memory_bytes)} per rank, and "
        f"{_gib(free_memory(device))} of {_gib(total_memory(device))} are free ({first_line}).",
        remedy=_remedy(plan, sampled, device.type != "cpu", lambda other: other.memory_bytes <= least),
    )


def _remedy(plan: Plan, geometry: ScanGeometry, accelerator: bool, suffices: Callable[[Plan], bool]) -> str:
    """Return the single changes of a plan that would fit, and changes that always reduce memory."""
    always = "a smaller depth_um or binned frames"
    found = [
        f"{how} ({_gib(other.memory_bytes)} per rank)"
        for how, other in _first_of_each_kind(plan, geometry, accelerator, suffices)
    ]
    if not found:
        return f"use {always}, with fewer batch_views and, on GPUs, more ranks; none of these changes alone suffices."
    return f"what would fit: {'; or '.join(found)}; or {always}."


def _first_of_each_kind(
    plan: Plan, geometry: ScanGeometry, accelerator: bool, suffices: Callable[[Plan], bool]
) -> Iterator[tuple[str, Plan]]:
    """Yield the smallest sufficient change of each kind: its description, and the changed plan."""
    more_ranks = _more_ranks(plan) if accelerator else ()
    for kind in (_recomputed(plan), _smaller_batches(plan), _more_slabs(plan), more_ranks):
        for how, changed in kind:
            other = with_memory(changed, geometry, accelerator)
            if suffices(other):
                yield how, other
                break


def _recomputed(plan: Plan) -> Iterator[tuple[str, Plan]]:
    if plan.gradient == "stored":
        yield "recomputed waves, as planned for a smaller gpu_memory_gb", replace(plan, gradient="recomputed")


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
