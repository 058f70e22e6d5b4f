"""How a plan is made to fit into the memory of a machine: slabs, tiles of frames, place of frames, stored waves."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import replace

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.planning.cost import computed_field, with_memory
from bluesky_multislice.planning.frame_sharing import tiles_of_frames
from bluesky_multislice.planning.frames_place import with_frame_storage
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
    """Return the plan with its memory, and with what the machine has room for.

    Args:
        plan: all of it but its memory.
        geometry: of the scan, as finely sampled as the plan says.
        recipe: what a person chose.
        slabs: slabs of the volume; None: as few as memory asks for.
        machine: where the job computes.
        sizes: a plan with its slabs → it with steps of sizes that are tried one after the other.
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
    """Return into how many slabs so many ranks can cut the volume of a plan, each with a row at least."""
    rows = plan.grid.shape[1]
    if "tilt" in plan.fit.refinement.quantities:
        return [1]
    return [n for n in range(1, ranks + 1) if ranks % n == 0 and math.ceil(rows / n) * (n - 1) < rows]


def fits(plan: Plan, machine: Machine) -> bool:
    """Return whether the ranks of a plan fit into what it may count on of a GPU's or a node's memory."""
    return plan.memory_bytes * machine.sharing(plan.ranks) <= machine.usable_bytes


def _with_frame_tiles(plan: Plan, geometry: ScanGeometry, recipe: Recipe, *, needed: bool) -> Plan:
    """Return the plan with tiles of frames, one a rank, where they serve; tiles within them divide what is left."""
    tiles, note = tiles_of_frames(plan, geometry, recipe, needed=needed)
    noted = replace(plan, notes=(*plan.notes, note)) if note else plan
    if tiles is None:
        return noted
    cut = replace(noted, frame_tiles=tiles)
    if plan.propagation == "tiled-multislice":
        cut = replace(cut, tiles=tiles_of(geometry, plan.grid, computed_field(cut, geometry), recipe.accuracy)[0])
    return cut


def _propagated_in_memory(plan: Plan, geometry: ScanGeometry, accuracy: float, machine: Machine) -> Plan:
    """Return the plan with its memory, and with the way to differentiate that the machine has room for.

    Waves are stored where that takes no more than half of the memory, else recomputed. Where a whole field is too
    large for that as well, it is cut into tiles.
    """
    room, ranks, accelerator = machine.usable_bytes, machine.sharing(plan.ranks), machine.accelerator
    stored, again = (
        with_memory(replace(plan, gradient=way), geometry, accelerator) for way in ("stored", "recomputed")
    )
    if stored.memory_bytes * ranks < room / 2:
        return stored
    if fits(again, machine) or plan.propagation != "multislice":
        return again
    tiles, halo = tiles_of(geometry, plan.grid, computed_field(plan, geometry), accuracy)
    cut = replace(again, propagation="tiled-multislice", tiles=tiles, halo=halo)
    note = f"a whole field does not fit into memory: it is cut into {tiles[0]} by {tiles[1]} tiles"
    cut = with_memory(replace(cut, notes=(*plan.notes, note)), geometry, accelerator)
    return cut if cut.memory_bytes < again.memory_bytes else again
