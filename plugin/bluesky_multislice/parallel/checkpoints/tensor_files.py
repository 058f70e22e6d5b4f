"""The tensors of all ranks in the files of one folder, by torch.distributed.checkpoint.

PyTorch's part takes as long to import as a quarter of a rank's start, and short fits keep nothing: whoever needs this
room imports it when it does.
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
"""How names of tensors (..., z, y, x) begin that ranks have parts of."""

Described = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of the tensors of a folder, by name."""

FAILURES = (Exception, CheckpointException)
"""What writing and reading may raise; PyTorch's own is no Exception."""

# What it says of a job of one rank, in every save and load.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")


def start_writing(place: Path, tensors: Mapping[str, Tensor], mesh: Mesh, group: dist.ProcessGroup | None) -> Any:
    """Begin to write all ranks' tensors; returns a future of it, when the tensors may change again.

    Args:
        place: the folder.
        tensors: by name; this rank's rows of those called ``volume/…``, and of its planes of ``planes/…``.
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
        if (placements := _placements(name, shape, mesh)) is not None:
            state[name] = empty(*shape, dtype=dtype, device_mesh=mesh.devices, placements=placements)
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
    if not name.startswith(_VOLUMES):
        return tensor
    lying = tensor.mT.contiguous()
    *others, planes, width, rows = lying.shape
    if name.startswith("planes/"):
        count = torch.tensor(planes, device=tensor.device)
        mesh.sum_over_angles(count)
        planes = int(count)
    whole = torch.empty((*others, planes, width, round(mesh.sum_over_slabs(rows))), device="meta")
    placements = _placements(name, whole.shape, mesh)
    if placements is None:
        return lying
    return DTensor.from_local(
        lying, mesh.devices, placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def _taken(name: str, tensor: Tensor) -> Tensor:
    """Return what ``_placed`` was given."""
    return tensor.mT if name.startswith(_VOLUMES) else tensor


def _placements(name: str, shape: Sequence[int], mesh: Mesh) -> tuple[Placement, Placement] | None:
    """Return how a volume (..., z, x, y) lies on a mesh (angle, slab); None for what every rank holds whole.

    Rows are in slabs, the same for all angles; planes that ranks share are in parts among those of the same rows.
    """
    if not name.startswith(_VOLUMES):
        return None
    shared = name.startswith("planes/") and planes_are_shared(mesh, shape[-3])
    if mesh.slabs == 1 and not shared:
        return None
    return Shard(len(shape) - 3) if shared else Replicate(), Shard(len(shape) - 1)
