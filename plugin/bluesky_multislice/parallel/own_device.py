"""Assignment of the accelerators of a node to its ranks."""

import os
import socket
from typing import Protocol

import torch

from bluesky_multislice.errors import PlanError
from bluesky_multislice.optics.accelerator import accelerator_count, device_identifier, visibility_settings


class Store(Protocol):
    """The part of PyTorch's key-value stores that ranks use to exchange device identifiers."""

    def set(self, key: str, value: str) -> None:
        """Store a value."""
        ...

    def get(self, key: str) -> bytes:
        """Wait until a key has a value, and return it."""
        ...


def own_device(kind: str, *, rank: int, store: Store | None) -> torch.device:
    """Return the accelerator of this rank: the visible device whose index is the rank's number on its node.

    A rank's number on the node can exceed the number of its visible devices for two reasons. Either every rank sees a
    device of its own, as with Slurm's ``--gpus-per-task``, which is then index 0 in each process; or all ranks see the
    same devices, and there are too few. Device indices do not distinguish these cases, but device identifiers do. Each
    rank therefore stores its device's identifier, and a rank with such a number compares it with the other ranks of the
    node.

    Args:
        kind: type of accelerator; at least one must be visible to this process.
        rank: number of this rank in the job.
        store: key-value store shared by the ranks; None on a single rank.

    Raises:
        PlanError: another rank uses the same device.
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
                "Every rank needs a GPU of its own.",
                got=f"ranks {other} and {rank} have the same one of {own}, of {visible} that they see"
                f"{f' ({masks})' if masks else ''}.",
                remedy="start at most as many ranks on a node as it has GPUs, or compute on CPUs: device cpu.",
            )
    return device


def _key(rank: int) -> str:
    return f"accelerator of rank {rank}"
