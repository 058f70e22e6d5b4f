"""The ranks of a job, in a mesh of angle × slab, and the numbers that they add up."""

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
"""Largest tensor that travels with others: to copy it takes less time than a message of its own would wait."""


@dataclass(frozen=True)
class Mesh:
    """Ranks in a mesh of angle × slab.

    Ranks that differ in their slab hold different rows of one volume and work on the same angles; ranks that differ in
    their angle hold the same rows and work on different views. One slab is data parallelism. Ranks of one angle follow
    each other, so that those that exchange rows lie on one node.

    Attributes:
        rank: this process.
        size: number of processes.
        device: where this process computes.
        slabs: number of slabs that the volume is cut into.
        devices: PyTorch's mesh with the dimensions ``angle`` and ``slab``; None on a single rank.
    """

    rank: int
    size: int
    device: torch.device
    slabs: int = 1
    devices: DeviceMesh | None = None

    @property
    def slab(self) -> int:
        """Number of the slab that this rank holds."""
        return self.rank % self.slabs

    @property
    def angle(self) -> int:
        """Number of this rank along the mesh's other dimension."""
        return self.rank // self.slabs

    @property
    def angles(self) -> int:
        """Number of groups of ranks that work on different views."""
        return self.size // self.slabs

    @property
    def undivided(self) -> "Mesh":
        """The same ranks, each with the whole volume and its own share of the views."""
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
        """Return what ``sum_over_slabs`` does, of a 0-d tensor that stays where it is."""
        if self.slabs == 1:
            return number
        total = number.clone()
        dist.all_reduce(total, group=self._group("slab"))
        return total

    def _group(self, dimension: str) -> dist.ProcessGroup | None:
        return None if self.devices is None or self.slabs == 1 else self.devices.get_group(dimension)

    def largest(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        return self.largest_value(torch.tensor(number, dtype=torch.float64, device=self.device)).item()

    def largest_value(self, number: Tensor) -> Tensor:
        """Return what ``largest`` does, of a 0-d tensor that stays where it is."""
        found = number.clone()
        if self.size > 1:
            dist.all_reduce(found, dist.ReduceOp.MAX)
        return found

    def peak_memory_bytes(self) -> int:
        """Return the most memory that any rank has held so far; every rank calls it."""
        return int(self.largest(self.own_peak_bytes))

    @property
    def own_peak_bytes(self) -> int:
        """Most memory that this rank has held so far: of its GPU, else resident."""
        if self.device.type != "cpu":
            return peak_memory(self.device)
        # Not getrusage, whose peak begins with that of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])

    def share(self, count: int) -> range:
        """Return which of ``count`` items are this rank's."""
        return range(self.rank, count, self.size)


def _sum(tensors: Sequence[Tensor], group: dist.ProcessGroup | None) -> None:
    """Replace each tensor by its sum over a group; small ones of one type travel in one message."""
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
    """Join the ranks that torchrun started (a single one without it) and leave them at the end.

    A rank that raises does not leave: to close its groups could wait for ranks that sit in a collective. It ends its
    process, see ``end_process``, and torchrun ends the others.

    Args:
        device: ``cpu``, ``cuda`` or ``xpu``, ``gpu`` for whichever of these two is there, or ``auto`` for that or else
            the processor.
        slabs: number of slabs that the volume is cut into.

    Raises:
        PlanError: the ranks cannot hold so many slabs, there is no such device or no thread, or too few devices.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if slabs < 1 or size % slabs:
        raise PlanError(
            "The ranks of a job are a multiple of the slabs of the volume.",
            got=f"{size} ranks and {slabs} slabs.",
            remedy="start as many ranks as the mesh has, or ask for a mesh that multiplies to the number of ranks.",
        )
    requested_threads(os.environ)
    kind = resolve_device_type(device)
    store = next(rendezvous("env://"))[0] if size > 1 else None
    place = torch.device("cpu") if kind == "cpu" else own_device(kind, rank=rank, store=store)
    select(place)
    if store is None:
        yield Mesh(rank, size, place)
        return
    own = None if kind == "cpu" else place
    dist.init_process_group(backend_of(place), store=store, rank=rank, world_size=size, device_id=own)
    devices = init_device_mesh(place.type, (size // slabs, slabs), mesh_dim_names=("angle", "slab"))
    yield Mesh(rank, size, place, slabs, devices)
    dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End a rank's process with an exit status, without the interpreter's own shutdown.

    gloo's threads can outlive ``destroy_process_group`` and then abort a shutdown that has nothing left to do (seen
    with torch 2.13 about once in sixty jobs; PyTorch issue 190489), which would turn a finished job into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
