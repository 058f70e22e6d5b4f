"""The machine for which a plan is made: this one, or the nodes of a site."""

import os
from dataclasses import dataclass

from bluesky_multislice.errors import PlanError
from bluesky_multislice.optics.accelerator import (
    accelerator_type,
    resolve_device_type,
    visible_accelerators,
    why_no_accelerator,
)

RESERVE = 0.05
"""Fraction of an accelerator's memory, and of its node's, that plans leave free.

It is for drivers, the system and other processes, and for errors of the predicted memory.
"""

_MOST_RANKS = 8
"""Default limit on the ranks of a node's CPU: more ranks compete for the same memory bandwidth."""


@dataclass(frozen=True)
class Machine:
    """Machine of a job.

    Attributes:
        places: largest number of ranks: GPUs or cores of all nodes.
        places_per_node: largest number of ranks per node.
        memory_bytes: memory of one GPU, or of one node without GPUs.
        accelerator: whether ranks compute on GPUs.
        host_memory_bytes: memory of a node with GPUs; None: unknown.
        cores_per_node: CPU cores of a node with GPUs; None: one per GPU.
    """

    places: int
    places_per_node: int
    memory_bytes: int
    accelerator: bool
    host_memory_bytes: int | None = None
    cores_per_node: int | None = None

    @property
    def usable_bytes(self) -> int:
        """Part of ``memory_bytes`` that a plan may use."""
        return int(self.memory_bytes * (1 - RESERVE)) if self.accelerator else self.memory_bytes

    def sharing(self, ranks: int) -> int:
        """Return the number of a job's ranks that share ``memory_bytes``."""
        return 1 if self.accelerator else min(ranks, self.places_per_node)

    def for_device(self, device: str) -> "Machine":
        """Return the machine as this device uses it; for ``cpu`` on nodes with GPUs, their cores and memory.

        Raises:
            PlanError: the memory of these nodes is unknown.
        """
        if device != "cpu" or not self.accelerator:
            return self
        if self.host_memory_bytes is None:
            raise PlanError(
                "A plan for the CPUs of nodes with GPUs needs the memory of a node.",
                got="only the memory of its GPUs.",
                remedy="give memory_gb in the site's profile, or use device auto or gpu.",
            )
        cores = self.cores_per_node or self.places_per_node
        nodes = self.places // self.places_per_node
        return Machine(nodes * min(cores, _MOST_RANKS), cores, self.host_memory_bytes, accelerator=False)


def this_machine(device: str) -> Machine:
    """Return the machine of this process, with GPUs if the device (see ``Recipe``) allows them.

    Raises:
        PlanError: the device is a GPU that is missing or does not respond.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resolve_device_type(device) != "cpu":
        # Ranks share views and volume evenly, so the smallest GPU limits all.
        found = visible_accelerators()
        smallest = min(each.memory_bytes for each in found)
        return Machine(len(found), len(found), smallest, True, memory_bytes, usable_cores())
    # Ranks requested by the user share the node's memory, whatever their number.
    return Machine(min(usable_cores(), _MOST_RANKS), 4096, memory_bytes, accelerator=False)


def device_notes(device: str) -> list[str]:
    """Return notes on the device that ``auto`` selects on this machine.

    Args:
        device: device of the recipe.
    """
    if device == "auto" and accelerator_type() is not None and resolve_device_type(device) == "cpu":
        return [f"no GPU is used: {why_no_accelerator()}"]
    return []


def usable_cores() -> int:
    """Return the number of cores that this process and its children may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
