"""What a rank holds at its peak.

The counts are of what the code keeps, checked against the resident peak of jobs (tests/benchmarks/memory_benchmark.py).
"""

import math
from dataclasses import astuple, dataclass, replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.optics import bytes_of_graphs, bytes_per_rotation, cached_rotations
from bluesky_multislice.planning.frames_place import batch_bytes, frame_bytes
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.plan import Plan

_PROGRAM = 370 * 2**20
"""Bytes of the interpreter, PyTorch, HDF5 and the compiled kernels of a rank, as measured."""

_BACK_PROJECTION = 180 * 2**20
"""Bytes of the libraries that make the first volume, as measured."""

_EXCHANGE = 120 * 2**20
"""Bytes of the exchange among several ranks, as measured."""

_PROGRAM_WITH_DRIVER = 2 * 2**30
"""Bytes of a rank's process beside its GPU: those of ``_PROGRAM`` and what it reads of the maker's libraries, which are
some 3 GB of files. An allowance, not a measurement."""

_CONTEXT = 600 * 2**20
"""Bytes of a GPU that a process takes by using it. 484 MiB were seen on an RTX 3090 with CUDA 13
(github.com/NVIDIA/nccl/pull/2366); a GPU with more processors takes more."""

_COMMUNICATOR = 700 * 2**20
"""Bytes of a GPU for each group of ranks that exchange: with NCCL 688 MiB were seen for four A100 with NVLink, 544 MiB
for two of them (github.com/NVIDIA/nccl/issues/964)."""

_HOLES = 0.1
"""Memory that PyTorch's allocator holds of a GPU beside tensors, as a part of theirs: it keeps freed blocks, rounds up
to 2 MiB, and blocks of other sizes leave holes. An allowance, not a measurement."""

_NEIGHBOURS = 2 * 200 * 10**6
"""Bytes of a GPU for places and weights of the neighbours that a turn makes together, and as much on the way to them;
matrices are kept on processors only."""

_PROPAGATORS = 7
"""Complex arrays as large as a window that the model keeps beside the ways to detectors: propagators over a slice and
back, edges, shifts, as counted on processors."""


@dataclass(frozen=True)
class MemoryParts:
    """Bytes that one rank holds at its peak, of its GPU or of its node, by what they are for.

    Attributes:
        volumes: slabs of the volume, its gradient, the optimiser's state, the best copy and others as large.
        frames: measured frames.
        batch: turned planes, waves and transmissions of a batch of views.
        turns: matrices that turn the volume; on a GPU, what takes their place.
        propagators: propagators over a slice and to detectors.
        transforms: work area of the Fourier transform of a batch, on a GPU.
        graphs: what captured graphs of the slices keep of a GPU.
        allocator: what PyTorch's allocator holds of a GPU beside tensors.
        context: what a process takes of a GPU by using it.
        checkpoint: what a checkpoint is written from while the fit goes on.
        program: interpreter, PyTorch and compiled kernels.
        libraries: of the first volume.
        exchange: among several ranks.
    """

    volumes: float = 0.0
    frames: float = 0.0
    batch: float = 0.0
    turns: float = 0.0
    propagators: float = 0.0
    transforms: float = 0.0
    graphs: float = 0.0
    allocator: float = 0.0
    context: float = 0.0
    checkpoint: float = 0.0
    program: float = 0.0
    libraries: float = 0.0
    exchange: float = 0.0

    @property
    def total(self) -> int:
        """The peak of the rank."""
        return int(sum(astuple(self)))


def memory_parts(plan: Plan, geometry: ScanGeometry, accelerator: bool) -> MemoryParts:
    """Return the peak of one rank in parts: of the memory of its GPU, or of its node where it computes on processors.

    Args:
        plan: all of it but its memory.
        geometry: of the scan, as finely sampled as the plan says.
        accelerator: whether it is a GPU's.
    """
    angles = len(np.unique(geometry.angle_rad))
    turns = 0.0
    if angles > 1 and plan.interpolation != "fourier":
        plane = plan.grid.shape[0] * plan.grid.shape[2], plan.interpolation
        turns = _NEIGHBOURS if accelerator else min(angles, cached_rotations(*plane)) * bytes_per_rotation(*plane)
    tensors = MemoryParts(
        volumes=_volume(plan) * _volumes(plan, angles),
        frames=_frames(plan, geometry),
        batch=_batch(plan, geometry),
        turns=turns,
        propagators=_propagators(plan, geometry),
        transforms=_wave(plan, geometry) if accelerator else 0.0,
        graphs=_graphs(plan, geometry) if accelerator else 0.0,
    )
    if not accelerator:
        return replace(tensors, checkpoint=_volume(plan) * _written(plan), **_process(plan, _PROGRAM))
    return replace(
        tensors,
        allocator=_HOLES * tensors.total,
        context=_CONTEXT,
        exchange=_communicators(plan) * _COMMUNICATOR,
    )


def host_memory_parts(plan: Plan, geometry: ScanGeometry) -> MemoryParts:
    """Return what a rank that computes on a GPU holds of its node's memory at its peak.

    Args:
        plan: of the reconstruction.
        geometry: of the scan, as finely sampled as the plan says.
    """
    return MemoryParts(
        # Pinned, on their way to the GPU; those that are kept in memory are kept there.
        frames=_frames(plan, geometry) if plan.frames_in == "disk" else 0.0,
        checkpoint=_volume(plan) * _written(plan),
        **_process(plan, _PROGRAM_WITH_DRIVER),
    )


def _volume(plan: Plan) -> float:
    """Return the bytes of one part of the volume, of a rank."""
    return 4 * math.prod(plan.grid.shape) / plan.slabs


def _process(plan: Plan, program: float) -> dict[str, float]:
    """Return what a rank's process holds whatever it computes."""
    return {
        "program": program,
        "libraries": _BACK_PROJECTION if plan.start != "empty" else 0.0,
        "exchange": _EXCHANGE if plan.ranks > 1 else 0.0,
    }


def _communicators(plan: Plan) -> int:
    """Return the number of groups of ranks that exchange what lies on a GPU: all, those of a slab, of an angle."""
    if plan.ranks == 1:
        return 0
    return 1 if plan.slabs == 1 else 2 if plan.slabs == plan.ranks else 3


def computed_field(plan: Plan, geometry: ScanGeometry) -> tuple[int, int]:
    """Return the pixels (y, x) of the waves of a rank: of the highest tile of a frame, or of the window."""
    rows, columns = window_of(geometry, plan.margin)
    return max(last - first for first, last in plan.windows(rows)), columns


def with_memory(plan: Plan, geometry: ScanGeometry, accelerator: bool) -> Plan:
    """Return the plan with the peak of one of its ranks."""
    return replace(plan, memory_bytes=memory_parts(plan, geometry, accelerator).total)


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


def _views_of_rank(plan: Plan) -> int:
    """Return how many views of a batch a rank computes: all in tiles of frames, else its part of them."""
    return plan.fit.batch_views if plan.frame_tiles else math.ceil(plan.fit.batch_views / plan.slabs)


def _wave(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of one wave of a batch of views.

    As much the library of Fourier transforms takes for its work; NVIDIA's says from one to eight times that, the least
    for lengths of small prime factors, which those of windows have (docs.nvidia.com/cuda/cufft, "Plan size").
    PyTorch gives it memory for the time of a transform, so that transforms of several shapes need that of the largest.
    """
    return 8 * math.prod(computed_field(plan, geometry)) * _views_of_rank(plan) * plan.probe_modes


def _graphs(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of captured graphs, where the slices of small waves are captured."""
    if plan.kernels == "general" or plan.propagation != "multislice" or plan.gradient != "stored":
        return 0
    return bytes_of_graphs(int(_wave(plan, geometry)) // 8, plan.slices)


def _propagators(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of propagators: over a slice and the like, and one to the detector for each distance."""
    distances = len(np.unique(geometry.effective_distance_m))
    whole = math.prod(window_of(geometry, plan.margin))
    return 8 * (math.prod(computed_field(plan, geometry)) * distances + _PROPAGATORS * whole)


def _batch(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of turned planes, waves and transmissions of one batch of views."""
    high, wide = computed_field(plan, geometry)
    window, (_, rows, columns) = high * wide, plan.grid.shape
    if plan.frame_tiles:
        # Frames of different heights reach beyond a tile.
        seen = min(rows, high + rows - geometry.field_shape[0])
    else:
        # Windows of a slab's views reach out of it by half of their height on either side.
        seen = rows if plan.slabs == 1 else min(rows, math.ceil(rows / plan.slabs) + high)
    planes = 8 * plan.slices * max(window, seen * columns)
    # Planes of one angle are kept as they are padded; they come to there, and go back as gradients.
    held = planes * 3 + _wave(plan, geometry) * (_kept(plan) + 7)
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
