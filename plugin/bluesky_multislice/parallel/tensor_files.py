"""The tensors of all ranks in the files of one folder, by torch.distributed.checkpoint.

PyTorch's part takes as long to import as a quarter of a rank's start, and short fits keep nothing: whoever needs this
room imports it when it does.
"""

import warnings
from collections.abc import Mapping
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
from torch.distributed.tensor import DTensor, Replicate, Shard, empty

from bluesky_multislice.parallel.mesh import Mesh

Described = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of the tensors of a folder, by name."""

FAILURES = (Exception, CheckpointException)
"""What writing and reading may raise; PyTorch's own is no Exception."""

# What it says of a job of one rank, in every save and load.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def begin_to_write(place: Path, tensors: Mapping[str, Tensor], mesh: Mesh, group: dist.ProcessGroup | None) -> Any:
    """Begin to write all ranks' tensors; returns a future of it, when the tensors may change again.

    Args:
        place: the folder.
        tensors: by name; this rank's rows of those called ``volume/…``.
        mesh: the ranks.
        group: the ranks, for what is said of files; None of a single one.
    """
    return async_save(
        {name: _placed(name, tensor.detach(), mesh) for name, tensor in tensors.items()},
        storage_writer=FileSystemWriter(place),
        process_group=group,
        no_dist=group is None,
    )


def describe(place: Path) -> Described:
    """Return what tensors a folder has."""
    stored = FileSystemReader(place).read_metadata().state_dict_metadata
    return {
        name: (tuple(about.size), about.properties.dtype)
        for name, about in stored.items()
        if isinstance(about, TensorStorageMetadata)
    }


def read(place: Path, described: Described, mesh: Mesh, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    """Return this rank's part of a folder's tensors.

    Tensors of other ranks are left out; ``rank/…`` without a number is this one's own.

    Args:
        place: the folder.
        described: what tensors it has.
        mesh: the ranks.
        group: the ranks, for what is said of files; None of a single one.
    """
    own = f"rank{mesh.rank}/"
    state: dict[str, Tensor] = {}
    for name, (shape, dtype) in described.items():
        if name.startswith("volume/") and mesh.slabs > 1:
            state[name] = empty(*shape, dtype=dtype, device_mesh=mesh.devices, placements=_placements(len(shape)))
        elif name.startswith(own):
            state[name] = torch.empty(shape, dtype=dtype)
        elif not name.startswith("rank"):
            state[name] = torch.empty(shape, dtype=dtype, device=mesh.device)
    load(state, storage_reader=FileSystemReader(place), process_group=group, no_dist=group is None)
    return {
        name.replace(own, "rank/"): _taken(name, tensor.to_local() if isinstance(tensor, DTensor) else tensor)
        for name, tensor in state.items()
    }


def _placed(name: str, tensor: Tensor, mesh: Mesh) -> Tensor:
    """Return the tensor as a part of the whole that all ranks together save or load; rows of volumes come last."""
    if not name.startswith("volume/"):
        return tensor
    lying = tensor.mT.contiguous()
    if mesh.slabs == 1:
        return lying
    whole = torch.empty((*lying.shape[:-1], round(mesh.sum_over_slabs(lying.shape[-1]))), device="meta")
    return DTensor.from_local(
        lying,
        mesh.devices,
        _placements(tensor.ndim),
        run_check=False,
        shape=whole.shape,
        stride=whole.stride(),
    )


def _taken(name: str, tensor: Tensor) -> Tensor:
    """Return what ``_placed`` was given."""
    return tensor.mT if name.startswith("volume/") else tensor


def _placements(dimensions: int) -> tuple[Replicate, Shard]:
    """Return how a volume lies on a mesh (angle, slab): the same for all angles, its last axis in slabs."""
    return Replicate(), Shard(dimensions - 1)
