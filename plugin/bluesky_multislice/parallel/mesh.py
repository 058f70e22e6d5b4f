"""The ranks of a job and what they exchange. Nothing else in the package talks to torch.distributed."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Mesh:
    """Ranks that each hold the volume and work on their share of the views.

    Attributes:
        rank: this process.
        size: number of processes.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all ranks."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def largest(self, number: float) -> float:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        found = torch.tensor(number, dtype=torch.float64, device=self.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return found.item()

    def peak_memory_bytes(self) -> int:
        """Return the most memory that any rank has held so far: allocated on a GPU, else resident."""
        if self.device.type == "cuda":
            return int(self.largest(torch.cuda.max_memory_allocated(self.device)))
        # Not getrusage, whose peak begins with that of the process that started this one.
        status = Path("/proc/self/status").read_text()
        return int(self.largest(1024 * int(status.partition("VmHWM:")[2].split()[0])))

    def share(self, count: int) -> range:
        """Return which of ``count`` items are this rank's."""
        return range(self.rank, count, self.size)


@contextmanager
def join_mesh(device: str = "auto") -> Iterator[Mesh]:
    """Join the ranks that torchrun started (a single one without it) and leave them at the end.

    Args:
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(place)
    if size > 1:
        dist.init_process_group("nccl" if cuda else "gloo", device_id=place if cuda else None)
    try:
        yield Mesh(rank, size, place)
    finally:
        if size > 1:
            dist.destroy_process_group()


def end_process(status: int) -> NoReturn:
    """End a rank's process with an exit status, without the interpreter's own shutdown.

    gloo's threads can outlive ``destroy_process_group`` and then abort a shutdown that has nothing left to do (seen
    with torch 2.13 about once in sixty jobs; PyTorch issue 190489), which would turn a finished job into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
