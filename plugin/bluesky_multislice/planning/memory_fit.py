"""Adaptation of a plan to the memory of a machine: slabs, tiles of frames, storage of frames, and stored waves."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.planning.cost import computed_field, with_memory
from bluesky_multislice.planning.frame_sharing import tiles_of_frames
from bluesky_multislice.planning.frame_storage import with_frame_storage
from bluesky_multislice.planning.grid import tiles_of
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe


def fit_into_memory(
    plan: Plan,
    geometry: ScanGeometry,
    recipe: Recipe,
    slabs: int | None,
    machine: Machine,
    sizes: Callable[[Plan], Iterable[Plan]] = lambda plan: [plan],
) -> Plan:
    """Return the plan with its predicted memory, adapted to the memory of the machine.

    Args:
        plan: plan without its memory.
        geometry: geometry of the scan, sampled as in the plan.
        recipe: the recipe.
        slabs: number of slabs; None: as few as fit into memory.
        machine: machine of the job.
        sizes: plan with slabs → plans with different step sizes, in the order to try them.
    """
    numbers = [slabs] if slabs else possible_slabs(plan, plan.ranks)
    found = plan
    for number in numbers:
        for sized, needed in itertools.product(sizes(replace(plan, slabs=number)), (False, True)):
            cut = _with_frame_tiles(sized, geometry, recipe, needed=needed)
            cut = with_frame_storage(cut, geometry, recipe, machine)
            found = _propagated_in_memory(cut, geometry, recipe.accuracy, machine)
            if fits(found, machine):
                return found
    return found


def possible_slabs(plan: Plan, ranks: int) -> list[int]:
    """Return the possible numbers of slabs for this number of ranks, with at least one row per slab."""
    rows = plan.grid.shape[1]
    if "tilt" in plan.fit.refinement.quantities:
        return [1]
    return [n for n in range(1, ranks + 1) if ranks % n == 0 and math.ceil(rows / n) * (n - 1) < rows]


def fits(plan: Plan, machine: Machine) -> bool:
    """Return whether the ranks of a plan fit into the usable memory of a GPU or a node."""
    return plan.memory_bytes * machine.sharing(plan.ranks) <= machine.usable_bytes


def _with_frame_tiles(plan: Plan, geometry: ScanGeometry, recipe: Recipe, *, needed: bool) -> Plan:
    """Return the plan with one tile of frames per rank if that helps; tiles of the propagation divide it further."""
    tiles, note = tiles_of_frames(plan, geometry, recipe, needed=needed)
    noted = replace(plan, notes=(*plan.notes, note)) if note else plan
    if tiles is None:
        return noted
    cut = replace(noted, frame_tiles=tiles)
    if plan.propagation == "tiled-multislice":
        cut = replace(cut, tiles=tiles_of(geometry, plan.grid, computed_field(cut, geometry), recipe.accuracy)[0])
    return cut


def _propagated_in_memory(plan: Plan, geometry: ScanGeometry, accuracy: float, machine: Machine) -> Plan:
    """Return the plan with its predicted memory, and with stored waves, recomputed waves or tiles.

    Waves are stored if this needs at most half of the memory, else recomputed. If a whole field still does not fit, it
    is divided into tiles.
    """
    usable, ranks, accelerator = machine.usable_bytes, machine.sharing(plan.ranks), machine.accelerator
    stored, recomputed = (
        with_memory(replace(plan, gradient=gradient), geometry, accelerator) for gradient in ("stored", "recomputed")
    )
    if stored.memory_bytes * ranks < usable / 2:
        return stored
    if fits(recomputed, machine) or plan.propagation != "multislice":
        return recomputed
    tiles, halo = tiles_of(geometry, plan.grid, computed_field(plan, geometry), accuracy)
    cut = replace(recomputed, propagation="tiled-multislice", tiles=tiles, halo=halo)
    note = f"a whole field does not fit into memory: it is divided into {tiles[0]} by {tiles[1]} tiles"
    cut = with_memory(replace(cut, notes=(*plan.notes, note)), geometry, accelerator)
    return cut if cut.memory_bytes < recomputed.memory_bytes else recomputed
