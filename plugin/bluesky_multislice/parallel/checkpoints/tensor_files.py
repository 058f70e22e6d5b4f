"""Reads and writes the tensors of all ranks in one folder, by torch.distributed.checkpoint.

Importing torch.distributed.checkpoint takes a quarter of a rank's start time, and short fits save no checkpoints.
Callers therefore import this module when they need it.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, empty

from bluesky_multislice.parallel.mesh import Mesh
from bluesky_multislice.parallel.plane_shares import planes_are_shared

_VOLUMES = ("volume/", "planes/")
"""Prefixes of the names of tensors (..., z, y, x) that are distributed over ranks."""

Described = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Name → shape and type of the tensors of a folder."""

FAILURES = (Exception, CheckpointException)
"""Exceptions of writing and reading; CheckpointException is not a subclass of Exception."""

# PyTorch emits this warning in every save and load of a job with one rank.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def start_writing(place: Path, tensors: Mapping[str, Tensor], mesh: Mesh, group: dist.ProcessGroup | None) -> Any:
    """Start writing all ranks' tensors; returns a future when the tensors may be changed again.

    Args:
        place: the folder.
        tensors: by name; this rank's rows of ``volume/…``, and its rows and planes of ``planes/…``.
        mesh: the ranks.
        group: group of all ranks for the metadata; None on a single rank.
    """
    return async_save(
        {name: _to_stored(name, tensor.detach(), mesh) for name, tensor in tensors.items()},
        storage_writer=FileSystemWriter(place),
        process_group=group,
        no_dist=group is None,
    )


def describe(place: Path) -> Described:
    """Return the shapes and types of a folder's tensors by name."""
    stored = FileSystemReader(place).read_metadata().state_dict_metadata
    return {
        name: (tuple(about.size), about.properties.dtype)
        for name, about in stored.items()
        if isinstance(about, TensorStorageMetadata)
    }


def read(place: Path, described: Described, mesh: Mesh, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Return this rank's part of a folder's tensors.

    Tensors of other ranks are omitted. This rank's own tensors are named ``rank/…`` without a number.

    Args:
        place: the folder.
        described: the folder's tensors, from ``describe``.
        mesh: the ranks.
        group: group of all ranks for the metadata; None on a single rank.
    """
    own = f"rank{mesh.rank}/"
    state: dict[str, Tensor] = {}
    for name, (shape, dtype) in described.items():
        if (placements := _placements(name, shape, mesh)) is not None:
            state[name] = empty(*shape, dtype=dtype, device_mesh=mesh.devices, placements=placements)
        elif name.startswith(own):
            state[name] = torch.empty(shape, dtype=dtype)
        elif not name.startswith("rank"):
            state[name] = torch.empty(shape, dtype=dtype, device=mesh.device)
    load(state, storage_reader=FileSystemReader(place), process_group=group, no_dist=group is None)
    return {
        name.replace(own, "rank/"): _from_stored(name, tensor.to_local() if isinstance(tensor, DTensor) else tensor)
        for name, tensor in state.items()
    }


def _to_stored(name: str, tensor: Tensor, mesh: Mesh) -> Tensor:
    """Return the tensor as its part of a distributed tensor; volumes are stored with y as the last axis."""
    if not name.startswith(_VOLUMES):
        return tensor
    y_last = tensor.mT.contiguous()
    *others, planes, width, rows = y_last.shape
    if name.startswith("planes/"):
        count = torch.tensor(planes, device=tensor.device)
        mesh.sum_over_angles(count)
        planes = int(count)
    whole = torch.empty((*others, planes, width, round(mesh.sum_over_slabs(rows))), device="meta")
    placements = _placements(name, whole.shape, mesh)
    if placements is None:
        return y_last
    return DTensor.from_local(
        y_last, mesh.devices, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _from_stored(name: str, tensor: Tensor) -> Tensor:
    """Return the tensor in its original axis order; inverse of ``_to_stored``."""
    return tensor.mT if name.startswith(_VOLUMES) else tensor


def _placements(name: str, shape: Sequence[int], mesh: Mesh) -> tuple[Placement, Placement] | None:
    """Return the placements of a volume (..., z, x, y) on the mesh (angle, slab); None if every rank holds all of it.

    Rows are sharded over the slabs. Shared planes are also sharded over the ranks with the same rows.
    """
    if not name.startswith(_VOLUMES):
        return None
    shared = name.startswith("planes/") and planes_are_shared(mesh, shape[-3])
    if mesh.slabs == 1 and not shared:
        return None
    return Shard(len(shape) - 3) if shared else Replicate(), Shard(len(shape) - 1)
