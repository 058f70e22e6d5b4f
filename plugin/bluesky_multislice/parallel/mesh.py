"""The ranks of a job, in a mesh of angle × slab, and their reductions."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.rendezvous import rendezvous

from bluesky_multislice.errors import PlanError
from bluesky_multislice.optics import in_memory_order
from bluesky_multislice.optics.accelerator import backend_of, peak_memory, resolve_device_type, select
from bluesky_multislice.parallel.own_device import own_device
from bluesky_multislice.parallel.threads import requested_threads

_SMALL_BYTES = 2**20
"""Size up to which tensors are concatenated into one message: copying them is faster than separate messages."""


@dataclass(frozen=True)
class Mesh:
    """Ranks in a mesh of angle × slab.

    Along the slab dimension, ranks hold different rows of one volume and process the same angles. Along the angle
    dimension, ranks hold the same rows and process different views. One slab means data parallelism. Ranks of one angle
    have consecutive numbers, so that ranks that exchange rows are on one node.

    Attributes:
        rank: number of this process.
        size: number of processes.
        device: device of this process.
        slabs: number of slabs of the volume.
        devices: PyTorch's mesh with the dimensions ``angle`` and ``slab``; None on a single rank.
    """

    rank: int
    size: int
    device: torch.device
    slabs: int = 1
    devices: DeviceMesh | None = None

    @property
    def slab(self) -> int:
        """Index of the slab that this rank holds."""
        return self.rank % self.slabs

    @property
    def angle(self) -> int:
        """Index of this rank along the angle dimension."""
        return self.rank // self.slabs

    @property
    def angles(self) -> int:
        """Number of groups of ranks that process different views."""
        return self.size // self.slabs

    @property
    def undivided(self) -> "Mesh":
        """The same ranks, each with the whole volume and a share of the views."""
        return replace(self, slabs=1)

    @property
    def slab_group(self) -> dist.ProcessGroup | None:
        """The ranks that hold the slabs of one volume."""
        return self._group("slab")

    @property
    def angle_group(self) -> dist.ProcessGroup | None:
        """The ranks that hold the same rows."""
        return self._group("angle")

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.size > 1:
            _sum(tensors, None)

    def sum_over_angles(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over the ranks that hold the same slab."""
        if self.slabs == 1:
            self.sum(*tensors)
        elif self.angles > 1:
            _sum(tensors, self._group("angle"))

    def sum_over_slabs(self, number: float) -> float:
        """Return the sum of a number over the ranks that hold the slabs of one volume."""
        if self.slabs == 1:
            return number
        return self.sum_of_slabs(torch.tensor(number, dtype=torch.float64, device=self.device)).item()

    def sum_of_slabs(self, number: Tensor) -> Tensor:
        """Return the sum of a 0-d tensor over the slabs of one volume, on its own device."""
        if self.slabs == 1:
            return number
        total = number.clone()
        dist.all_reduce(total, group=self._group("slab"))
        return total

    def _group(self, dimension: str) -> dist.ProcessGroup | None:
        return None if self.devices is None or self.slabs == 1 else self.devices.get_group(dimension)

    def largest(self, number: float) -> float:
        """Return the maximum of a number over all ranks."""
        if self.size == 1:
            return number
        return self.largest_value(torch.tensor(number, dtype=torch.float64, device=self.device)).item()

    def largest_value(self, number: Tensor) -> Tensor:
        """Return the maximum of a 0-d tensor over all ranks, on its own device."""
        result = number.clone()
        if self.size > 1:
            dist.all_reduce(result, dist.ReduceOp.MAX)
        return result

    def peak_memory_bytes(self) -> int:
        """Return the largest peak memory of any rank so far; every rank must call it."""
        return int(self.largest(self.own_peak_bytes))

    @property
    def own_peak_bytes(self) -> int:
        """Peak memory of this rank so far: of its GPU, or the resident memory on a CPU."""
        if self.device.type != "cpu":
            return peak_memory(self.device)
        # Not getrusage, whose peak includes that of the parent process.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def share(self, count: int) -> range:
        """Return this rank's items of ``count`` items."""
        return range(self.rank, count, self.size)


def _sum(tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Replace each tensor by its sum over a group; small tensors of one dtype are sent in one message."""
    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in map(in_memory_order, tensors):
        if tensor.nbytes > _SMALL_BYTES:
            dist.all_reduce(tensor, group=group)
        else:
            small.setdefault(tensor.dtype, []).append(tensor)
    for members in small.values():
        message = members[0] if len(members) == 1 else torch.cat([tensor.flatten() for tensor in members])
        dist.all_reduce(message, group=group)
        if len(members) > 1:
            parts = message.split([tensor.numel() for tensor in members])
            for tensor, part in zip(members, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))


@contextmanager
def join_mesh(device: str = "auto", slabs: int = 1) -> Iterator[Mesh]:
    """Join the ranks that a launcher started (a single rank without one) and leave them at the end.

    After an exception the process groups are not closed, because that could wait for ranks that are blocked in a
    collective. The rank should then end its process with ``end_process``; the launcher ends the other ranks.

    Args:
        device: ``cpu``, ``cuda`` or ``xpu``; ``gpu`` for the available one of the latter; ``auto`` for a GPU if there
            is one, else the CPU.
        slabs: number of slabs of the volume.

    Raises:
        PlanError: the number of ranks is no multiple of the slabs, the device does not exist, the number of threads is
            invalid, or two ranks would use one device.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if slabs < 1 or size % slabs:
        raise PlanError(
            "The number of ranks of a job must be a multiple of the number of slabs.",
            got=f"{size} ranks and {slabs} slabs.",
            remedy="start as many ranks as the mesh has, or use a mesh whose product is the number of ranks.",
        )
    requested_threads(os.environ)
    kind = resolve_device_type(device)
    store = next(rendezvous("env://"))[0] if size > 1 else None
    device_of_rank = torch.device("cpu") if kind == "cpu" else own_device(kind, rank=rank, store=store)
    select(device_of_rank)
    if store is None:
        yield Mesh(rank, size, device_of_rank)
        return
    accelerator = None if kind == "cpu" else device_of_rank
    dist.init_process_group(backend_of(device_of_rank), store=store, rank=rank, world_size=size, device_id=accelerator)
    devices = init_device_mesh(device_of_rank.type, (size // slabs, slabs), mesh_dim_names=("angle", "slab"))
    yield Mesh(rank, size, device_of_rank, slabs, devices)
    dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End a rank's process with an exit status, without the interpreter's shutdown.

    gloo's threads can outlive ``destroy_process_group`` and abort the shutdown, so that a finished job would count as
    failed (about one in sixty jobs with torch 2.13; PyTorch issue 190489).
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
