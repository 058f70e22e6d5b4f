"""What a rank holds at its peak, and how a plan is made to fit into a machine.

The counts are of what the code keeps, checked against the resident peak of jobs (tests/benchmarks/memory_benchmark.py).
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import astuple, dataclass, replace

import numpy as np

from bluesky_multislice.geometry import ScanGeometry
from bluesky_multislice.optics import bytes_of_turn, kept_turns
from bluesky_multislice.planning.frame_tiles import tiles_of_frames
from bluesky_multislice.planning.frames_place import batch_bytes, frame_bytes, with_frames_place
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.sampling import tiles_of, window_of
from bluesky_multislice.recipe import Recipe

_PROGRAM = 370 * 2**20
"""Bytes of the interpreter, PyTorch, HDF5 and the compiled kernels of a rank, as measured."""

_BACK_PROJECTION = 180 * 2**20
"""Bytes of the libraries that make the first volume, as measured."""

_EXCHANGE = 120 * 2**20
"""Bytes of the exchange among several ranks, as measured."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes that one rank holds at its peak, by what they are for.

    Attributes:
        volumes: slabs of the volume, its gradient, the optimiser's state, the best copy and others as large.
        frames: measured frames.
        batch: turned planes, waves and transmissions of a batch of views.
        turns: matrices that turn the volume.
        checkpoint: what a checkpoint is written from while the fit goes on.
        program: interpreter, PyTorch and compiled kernels.
        libraries: of the first volume.
        exchange: among several ranks.
    """

    volumes: float
    frames: float
    batch: float
    turns: float = 0.0
    checkpoint: float = 0.0
    program: float = 0.0
    libraries: float = 0.0
    exchange: float = 0.0

    @property
    def total(self) -> int:
        """The peak of the rank."""
        return int(sum(astuple(self)))


def memory_parts(plan: Plan, geometry: ScanGeometry, cuda: bool) -> MemoryParts:
    """Return the peak of one rank in parts.

    Args:
        plan: all of it but its memory.
        geometry: of the scan, as finely sampled as the plan says.
        cuda: whether it is a GPU's.
    """
    volume, angles = 4 * math.prod(plan.grid.shape) / plan.slabs, len(np.unique(geometry.angle_rad))
    turns = 0.0
    if angles > 1 and plan.interpolation != "fourier":
        plane = plan.grid.shape[0] * plan.grid.shape[2], plan.interpolation
        turns = min(angles, kept_turns(*plane)) * bytes_of_turn(*plane)
    on_gpu = MemoryParts(volume * _volumes(plan, angles), _frames(plan, geometry), _batch(plan, geometry), turns)
    if cuda:
        return on_gpu
    return replace(
        on_gpu,
        checkpoint=volume * _written(plan),
        program=_PROGRAM,
        libraries=_BACK_PROJECTION if plan.start != "empty" else 0,
        exchange=_EXCHANGE if plan.ranks > 1 else 0,
    )


def fitted_into_memory(
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
    numbers = [slabs] if slabs else [n for n in range(1, plan.ranks + 1) if plan.ranks % n == 0]
    found = plan
    for number in numbers:
        for sized, needed in itertools.product(sizes(replace(plan, slabs=number)), (False, True)):
            cut = _with_frame_tiles(sized, geometry, recipe, needed=needed)
            cut = with_frames_place(cut, geometry, recipe, machine)
            found = _propagated_in_memory(cut, geometry, recipe.accuracy, machine)
            if found.memory_bytes * machine.sharing(plan.ranks) <= machine.memory_bytes:
                return found
    return found


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


def computed_field(plan: Plan, geometry: ScanGeometry) -> tuple[int, int]:
    """Return the pixels (y, x) of the waves of a rank: of the highest tile of a frame, or of the window."""
    rows, columns = window_of(geometry, plan.margin)
    return max(last - first for first, last in plan.windows(rows)), columns


def _propagated_in_memory(plan: Plan, geometry: ScanGeometry, accuracy: float, machine: Machine) -> Plan:
    """Return the plan with its memory, and with the way to differentiate that the machine has room for.

    Waves are stored where that takes no more than half of the memory, else recomputed. Where a whole field is too
    large for that as well, it is cut into tiles.
    """
    room, ranks, cuda = machine.memory_bytes, machine.sharing(plan.ranks), machine.cuda
    stored, again = (_with_memory(replace(plan, gradient=way), geometry, cuda) for way in ("stored", "recomputed"))
    if stored.memory_bytes * ranks < room / 2:
        return stored
    if again.memory_bytes * ranks <= room or plan.propagation != "multislice":
        return again
    tiles, halo = tiles_of(geometry, plan.grid, computed_field(plan, geometry), accuracy)
    cut = replace(again, propagation="tiled-multislice", tiles=tiles, halo=halo)
    note = f"a whole field does not fit into memory: it is cut into {tiles[0]} by {tiles[1]} tiles"
    cut = _with_memory(replace(cut, notes=(*plan.notes, note)), geometry, cuda)
    return cut if cut.memory_bytes < again.memory_bytes else again


def _with_memory(plan: Plan, geometry: ScanGeometry, cuda: bool) -> Plan:
    return replace(plan, memory_bytes=memory_parts(plan, geometry, cuda).total)


def _volumes(plan: Plan, angles: int) -> float:
    """Return how many arrays as large as one part of the volume are held."""
    fit = plan.fit
    parts = 2 if fit.absorption else 1
    moments = 2 if fit.optimiser == "adam" else 1
    weight = fit.optimiser == "nesterov"
    # Object, gradient and best copy; a gradient on its way, and at the first step the weight of the voxels.
    count = parts * (3 + moments) + 1 + weight
    if (sharing := plan.ranks_sharing_planes) > 1:
        # Object and gradient of the rows held, and again of this rank's planes, with all that the optimiser keeps.
        count = 2 * parts + 1 + (parts * (3 + moments) + weight) / sharing
    # δ and β of the first volume, which all fits start from that try a weight.
    count += 2 if plan.start != "empty" and plan.smoothings else 0
    # This gradient, steepest descent and direction, the ones before, and a copy on the way to the bottom.
    count += 7 * parts if fit.polish else 0
    # The whole fit's δ and β, and the δ of the first half.
    count += 3 if plan.shell_correlation else 0
    return count + (4 if plan.interpolation == "fourier" and angles > 1 else 0)


def _written(plan: Plan) -> float:
    """Return how many arrays as large as one part of the volume a checkpoint is written from while the fit goes on."""
    fit = plan.fit
    parts = 2 if fit.absorption else 1
    moments = 2 if fit.optimiser == "adam" else 1
    # Object, and of this rank's planes the best copy and the weight of the voxels.
    return parts + (parts * (1 + moments) + (fit.optimiser == "nesterov")) / plan.ranks_sharing_planes


def _frames(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of frames: all of a rank, or a batch and those read ahead where they stay on disk."""
    if plan.frames_in == "memory":
        return geometry.views / plan.ranks * frame_bytes(plan, geometry) * (plan.slabs if plan.frame_tiles else 1)
    return (1 + plan.batches_ahead) * batch_bytes(plan, geometry)


def _batch(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of turned planes, waves and transmissions of one batch of views."""
    high, wide = computed_field(plan, geometry)
    window, (_, rows, columns) = high * wide, plan.grid.shape
    if plan.frame_tiles:
        # Of every view; frames of different heights reach beyond a tile.
        views, seen = plan.fit.batch_views, min(rows, high + rows - geometry.field_shape[0])
    else:
        views = math.ceil(plan.fit.batch_views / plan.slabs)
        # Windows of a slab's views reach out of it by half of their height on either side.
        seen = rows if plan.slabs == 1 else min(rows, math.ceil(rows / plan.slabs) + high)
    planes = 8 * plan.slices * max(window, seen * columns)
    wave = 8 * window * views * plan.probe_modes
    kept = _kept(plan)
    distances = len(np.unique(geometry.effective_distance_m))
    # Planes of one angle are kept as they are padded; they come to there, and go back as gradients.
    held = planes * 3 + wave * (kept + 7) + 8 * (window * distances + 7 * math.prod(window_of(geometry, plan.margin)))
    if plan.gradient == "stored":
        held += planes
    if plan.slabs > 1:
        # Those of the next angle are on their way, and the gradients of the last one.
        held += planes + 3 * 8 * plan.slices * math.ceil(rows / plan.slabs) * columns
    # Tiles have gradients of their own in the planes that all are cut from.
    return held + (planes if plan.propagation == "tiled-multislice" else 0)


def _kept(plan: Plan) -> float:
    """Return how many waves of the whole field are kept for the gradient."""
    if plan.gradient == "stored":
        return plan.slices
    if plan.propagation == "tiled-multislice":
        # One row of tiles of one view and its transmissions, with halos.
        return 2 * plan.slices / plan.tiles[0] * 2.25 / plan.fit.batch_views
    # Light that left through the edges does not come back: checkpoints instead.
    return 2 * math.sqrt(plan.slices) if plan.edges == "outgoing" else 0
