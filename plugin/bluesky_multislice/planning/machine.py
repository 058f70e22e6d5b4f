"""The machine that a plan is made for: this one, or the nodes of a site."""

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Where a job computes.

    Attributes:
        places: ranks that it has places for: GPUs or cores of all its nodes.
        places_per_node: those of one node.
        memory_bytes: memory of one GPU, or of one node.
        accelerator: whether ranks compute on GPUs.
    """

    places: int
    places_per_node: int
    memory_bytes: int
    accelerator: bool

    def sharing(self, ranks: int) -> int:
        """Return how many of a job's ranks share ``memory_bytes``."""
        return 1 if self.accelerator else min(ranks, self.places_per_node)


def this_machine(device: str) -> Machine:
    """Return the machine of this process, with GPUs where the device (``auto``, ``cpu`` or ``cuda``) allows them."""
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        count = torch.cuda.device_count()
        return Machine(count, count, torch.cuda.get_device_properties(0).total_memory, accelerator=True)
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Ranks that a person asks for share the one memory, however many.
    return Machine(min(os.cpu_count() or 1, 8), 4096, memory_bytes, accelerator=False)
