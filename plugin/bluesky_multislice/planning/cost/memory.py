"""Predicted peak memory of a rank.

The counts follow the code. They are checked against the resident memory of jobs (tests/benchmarks/memory_benchmark.py).
"""

import math
from dataclasses import astuple, dataclass, replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.optics import bytes_of_graphs, bytes_per_rotation, cached_rotations
from bluesky_multislice.planning.frame_storage import batch_bytes, frame_bytes
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.plan import Plan

_PROGRAM = 370 * 2**20
"""Memory of a rank's interpreter, PyTorch, HDF5 and compiled kernels, in bytes, measured."""

_BACK_PROJECTION = 180 * 2**20
"""Memory of the libraries for the initial volume, in bytes, measured."""

_EXCHANGE = 120 * 2**20
"""Memory for the exchange among several ranks, in bytes, measured."""

_PROGRAM_WITH_DRIVER = 2 * 2**30
"""Host memory of a rank on a GPU, in bytes: ``_PROGRAM``, and the loaded part of the vendor's libraries.

An allowance for 3 GB of files, not a measurement.
"""

_CONTEXT = 600 * 2**20
"""GPU memory of a process's context, in bytes.

484 MiB were reported for an RTX 3090 with CUDA 13 (github.com/NVIDIA/nccl/pull/2366); larger GPUs need more.
"""

_COMMUNICATOR = 700 * 2**20
"""GPU memory per communicator, in bytes.

For NCCL, 688 MiB were reported for four A100 with NVLink, 544 MiB for two (github.com/NVIDIA/nccl/issues/964).
"""

_ALLOCATOR_OVERHEAD = 0.1
"""GPU memory that PyTorch's allocator holds in addition to tensors, relative to them.

It keeps freed blocks, rounds up to 2 MiB, and fragments. An allowance, not a measurement.
"""

_ROTATION_INDICES = 2 * 200 * 10**6
"""GPU memory for indices and weights of a rotation, in bytes, and as much for intermediate results.

Rotation matrices are stored on CPUs only.
"""

_PROPAGATORS = 7
"""Number of complex arrays of a window's size in addition to propagators to detectors, as counted on CPUs.

They are propagators over a slice and back, edges, and shifts.
"""


@dataclass(frozen=True)
class MemoryParts:
    """Peak memory of one rank in bytes, on its GPU or its node, by purpose.

    Attributes:
        volumes: slabs of the volume, its gradient, the optimiser's state, the best copy, and others as large.
        frames: measured frames.
        batch: rotated planes, waves and transmission functions of a batch of views.
        rotations: rotation matrices; on a GPU, indices and weights.
        propagators: propagators over a slice and to detectors.
        transforms: work area of the Fourier transform of a batch, on a GPU.
        graphs: captured graphs of the slices, on a GPU.
        allocator: overhead of PyTorch's allocator, on a GPU.
        context: context of the process, on a GPU.
        checkpoint: copies from which a checkpoint is written during the fit.
        program: interpreter, PyTorch and compiled kernels.
        libraries: libraries for the initial volume.
        exchange: exchange among several ranks.
    """

    volumes: float = 0.0
    frames: float = 0.0
    batch: float = 0.0
    rotations: float = 0.0
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
        """Peak memory of the rank."""
        return int(sum(astuple(self)))


def memory_parts(plan: Plan, geometry: ScanGeometry, accelerator: bool) -> MemoryParts:
    """Return the predicted peak memory of one rank, of its GPU, or of its node if it computes on CPUs.

    Args:
        plan: plan without its memory.
        geometry: geometry of the scan, sampled as in the plan.
        accelerator: whether the rank computes on a GPU.
    """
    angles = len(np.unique(geometry.angle_rad))
    rotations = 0.0
    if angles > 1 and plan.interpolation != "fourier":
        plane = plan.grid.shape[0] * plan.grid.shape[2], plan.interpolation
        rotations = (
            _ROTATION_INDICES if accelerator else min(angles, cached_rotations(*plane)) * bytes_per_rotation(*plane)
        )
    tensors = MemoryParts(
        volumes=_volume(plan) * _volumes(plan, angles),
        frames=_frames(plan, geometry),
        batch=_batch(plan, geometry),
        rotations=rotations,
        propagators=_propagators(plan, geometry),
        transforms=_wave(plan, geometry) if accelerator else 0.0,
        graphs=_graphs(plan, geometry) if accelerator else 0.0,
    )
    if not accelerator:
        return replace(tensors, checkpoint=_volume(plan) * _checkpointed(plan), **_process(plan, _PROGRAM))
    return replace(
        tensors,
        allocator=_ALLOCATOR_OVERHEAD * tensors.total,
        context=_CONTEXT,
        exchange=_communicators(plan) * _COMMUNICATOR,
    )


def host_memory_parts(plan: Plan, geometry: ScanGeometry) -> MemoryParts:
    """Return the predicted peak host memory of a rank that computes on a GPU.

    Args:
        plan: plan of the reconstruction.
        geometry: geometry of the scan, sampled as in the plan.
    """
    return MemoryParts(
        # Pinned buffers for frames on disk; frames in memory are on the GPU.
        frames=_frames(plan, geometry) if plan.frames_in == "disk" else 0.0,
        checkpoint=_volume(plan) * _checkpointed(plan),
        **_process(plan, _PROGRAM_WITH_DRIVER),
    )


def _volume(plan: Plan) -> float:
    """Return the bytes of one part of the volume on a rank."""
    return 4 * math.prod(plan.grid.shape) / plan.slabs


def _process(plan: Plan, program: float) -> dict[str, float]:
    """Return the memory of a rank's process that is independent of its computations."""
    return {
        "program": program,
        "libraries": _BACK_PROJECTION if plan.start != "empty" else 0.0,
        "exchange": _EXCHANGE if plan.ranks > 1 else 0.0,
    }


def _communicators(plan: Plan) -> int:
    """Return the number of a rank's communicators on a GPU: all ranks, ranks of its slab, ranks of its angle group."""
    if plan.ranks == 1:
        return 0
    return 1 if plan.slabs == 1 else 2 if plan.slabs == plan.ranks else 3


def computed_field(plan: Plan, geometry: ScanGeometry) -> tuple[int, int]:
    """Return the size (y, x) of a rank's waves in pixels: the highest tile of a frame, or the window."""
    rows, columns = window_of(geometry, plan.margin)
    return max(last - first for first, last in plan.windows(rows)), columns


def with_memory(plan: Plan, geometry: ScanGeometry, accelerator: bool) -> Plan:
    """Return the plan with the predicted peak memory of a rank."""
    return replace(plan, memory_bytes=memory_parts(plan, geometry, accelerator).total)


def _volumes(plan: Plan, angles: int) -> float:
    """Return the number of arrays as large as one part of the volume."""
    fit = plan.fit
    parts = 2 if fit.absorption else 1
    moments = 2 if fit.optimiser == "adam" else 1
    weight = fit.optimiser == "nesterov"
    # Object, gradient and best copy; a gradient in exchange; in the first step, the weight of the voxels.
    count = parts * (3 + moments) + 1 + weight
    if (sharing := plan.ranks_sharing_planes) > 1:
        # Object and gradient of the stored rows; the same for this rank's planes, with the optimiser's state.
        count = 2 * parts + 1 + (parts * (3 + moments) + weight) / sharing
    # δ and β of the initial volume, from which all fits start that test a weight.
    count += 2 if (plan.start != "empty" or plan.from_former) and plan.smoothings else 0
    # Gradient, steepest descent and direction of this step and the last, and a copy for the line search.
    count += 7 * parts if fit.polish else 0
    # δ and β of the whole fit, and δ of the first half.
    count += 3 if plan.shell_correlation else 0
    return count + (4 if plan.interpolation == "fourier" and angles > 1 else 0)


def _checkpointed(plan: Plan) -> float:
    """Return the number of arrays as large as one part of the volume that a checkpoint copies during the fit."""
    fit = plan.fit
    parts = 2 if fit.absorption else 1
    moments = 2 if fit.optimiser == "adam" else 1
    # Object; for this rank's planes, the best copy and the weight of the voxels.
    return parts + (parts * (1 + moments) + (fit.optimiser == "nesterov")) / plan.ranks_sharing_planes


def _frames(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of a rank's frames: all of them, or a batch and those read ahead from disk."""
    if plan.frames_in == "memory":
        return geometry.views / plan.ranks * frame_bytes(plan, geometry) * (plan.slabs if plan.frame_tiles else 1)
    return (1 + plan.batches_ahead) * batch_bytes(plan, geometry)


def _views_of_rank(plan: Plan) -> int:
    """Return the number of a batch's views that a rank computes: all for tiles of frames, else its share."""
    return plan.fit.batch_views if plan.frame_tiles else math.ceil(plan.fit.batch_views / plan.slabs)


def _wave(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of one wave of a batch of views.

    The FFT library's work area is as large. NVIDIA states one to eight times this size, with the minimum for lengths of
    small prime factors, as those of windows (docs.nvidia.com/cuda/cufft, "Plan size"). PyTorch allocates it for the
    duration of a transform, so transforms of several shapes need only the largest.
    """
    return 8 * math.prod(computed_field(plan, geometry)) * _views_of_rank(plan) * plan.probe_modes


def _graphs(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of captured graphs, if the slices of small waves are captured."""
    if plan.kernels == "general" or plan.propagation != "multislice" or plan.gradient != "stored":
        return 0
    return bytes_of_graphs(int(_wave(plan, geometry)) // 8, plan.slices)


def _propagators(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of propagators: over a slice and similar, and one to the detector per distance."""
    distances = len(np.unique(geometry.effective_distance_m))
    whole = math.prod(window_of(geometry, plan.margin))
    return 8 * (math.prod(computed_field(plan, geometry)) * distances + _PROPAGATORS * whole)


def _batch(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of rotated planes, waves and transmission functions of one batch of views."""
    high, wide = computed_field(plan, geometry)
    window, (_, rows, columns) = high * wide, plan.grid.shape
    if plan.frame_tiles:
        # Frames of different heights extend beyond a tile.
        covered = min(rows, high + rows - geometry.field_shape[0])
    else:
        # Windows of a slab's views extend beyond it by half of their height on either side.
        covered = rows if plan.slabs == 1 else min(rows, math.ceil(rows / plan.slabs) + high)
    planes = 8 * plan.slices * max(window, covered * columns)
    # Planes of one angle: padded, unpadded, and their gradients.
    held = planes * 3 + _wave(plan, geometry) * (_kept(plan) + 7)
    if plan.gradient == "stored":
        held += planes
    if plan.slabs > 1:
        # Rotated planes of the next angle, and gradients of the last one, in exchange.
        held += planes + 3 * 8 * plan.slices * math.ceil(rows / plan.slabs) * columns
    # Tiles have their own gradients in addition to those of the planes.
    return held + (planes if plan.propagation == "tiled-multislice" else 0)


def _kept(plan: Plan) -> float:
    """Return the number of waves of the whole field that are stored for the gradient."""
    if plan.gradient == "stored":
        return plan.slices
    if plan.propagation == "tiled-multislice":
        # One row of tiles of one view with halos, and its transmission functions.
        return 2 * plan.slices / plan.tiles[0] * 2.25 / plan.fit.batch_views
    # Waves that left through the edges cannot be undone, so checkpoints are stored.
    return 2 * math.sqrt(plan.slices) if plan.edges == "outgoing" else 0
