"""Which accelerator of its node a rank computes on."""

import os
import socket
from typing import Protocol

import torch

from bluesky_multislice.errors import PlanError
from bluesky_multislice.optics.accelerator import accelerator_count, device_identifier, visibility_settings


class Store(Protocol):
    """What ranks need of one of PyTorch's stores: they leave word there for each other."""

    def set(self, key: str, value: str) -> None:
        """Leave a word."""
        ...

    def get(self, key: str) -> bytes:
        """Return a word as soon as somebody has left it."""
        ...


def own_device(kind: str, *, rank: int, store: Store | None) -> torch.device:
    """Return the accelerator of this rank: the one with its number on the node, of those that it sees.

    A rank whose number is beyond what it sees may have a mask of its own, as Slurm's ``--gpus-per-task`` gives it: the
    one device of every rank is then number 0 in its process. Or all ranks see the same devices, of which there are too
    few. The number of a device does not tell the two apart, what its maker calls it does: ranks write that down, and
    one with such a number looks whether another rank of its node has the same.

    Args:
        kind: type of accelerator; this process sees one at least.
        rank: number of this rank in the job.
        store: where ranks leave word for each other; None on a single rank.

    Raises:
        PlanError: another rank computes on the same device.
    """
    local_rank, visible = int(os.environ.get("LOCAL_RANK", "0")), accelerator_count()
    device = torch.device(kind, local_rank % visible)
    if store is None:
        return device
    own = f"{socket.gethostname()} {device_identifier(device)}"
    store.set(_key(rank), own)
    if local_rank < visible:
        return device
    for other in range(rank - local_rank, rank):
        if store.get(_key(other)).decode() == own:
            masks = visibility_settings(kind)
            raise PlanError(
                "Every rank computes on a GPU of its own.",
                got=f"ranks {other} and {rank} have the same one of {own}, of {visible} that they see"
                f"{f' ({masks})' if masks else ''}.",
                remedy="start no more ranks on a node than it has GPUs, or compute on processors: device cpu.",
            )
    return device


def _key(rank: int) -> str:
    return f"accelerator of rank {rank}"
