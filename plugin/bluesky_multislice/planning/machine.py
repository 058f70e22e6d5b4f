"""The machine that a plan is made for: this one, or the nodes of a site."""

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
"""Part of an accelerator's memory, and of its node's, that no plan counts on: what drivers, the system and others hold,
and by how much the count of a plan may fall short."""

_MOST_RANKS = 8
"""Ranks of a node's processors where nobody says how many: more of them wait for the same memory."""


@dataclass(frozen=True)
class Machine:
    """Where a job computes.

    Attributes:
        places: ranks that it has places for: GPUs or cores of all its nodes.
        places_per_node: those of one node.
        memory_bytes: memory of one GPU, or of one node.
        accelerator: whether ranks compute on GPUs.
        host_memory_bytes: memory of a node whose ranks compute on GPUs; None: not known.
        cores_per_node: processor cores of a node whose ranks compute on GPUs; None: one a GPU.
    """

    places: int
    places_per_node: int
    memory_bytes: int
    accelerator: bool
    host_memory_bytes: int | None = None
    cores_per_node: int | None = None

    @property
    def usable_bytes(self) -> int:
        """What plans may count on of ``memory_bytes``."""
        return int(self.memory_bytes * (1 - RESERVE)) if self.accelerator else self.memory_bytes

    def sharing(self, ranks: int) -> int:
        """Return how many of a job's ranks share ``memory_bytes``."""
        return 1 if self.accelerator else min(ranks, self.places_per_node)

    def for_device(self, device: str) -> "Machine":
        """Return the machine as ranks use it: of nodes with GPUs, where a recipe says ``cpu``, cores and memory.

        Raises:
            PlanError: the memory of these nodes is not known.
        """
        if device != "cpu" or not self.accelerator:
            return self
        if self.host_memory_bytes is None:
            raise PlanError(
                "A plan for the processors of a node with GPUs needs to know the node's memory.",
                got="that of its GPUs only.",
                remedy="give memory_gb in the site's profile, or use device auto or gpu.",
            )
        cores = self.cores_per_node or self.places_per_node
        nodes = self.places // self.places_per_node
        return Machine(nodes * min(cores, _MOST_RANKS), cores, self.host_memory_bytes, accelerator=False)


def this_machine(device: str) -> Machine:
    """Return the machine of this process, with GPUs where the device (see ``Recipe``) allows them.

    Raises:
        PlanError: the device is a GPU that is not there, or does not answer.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if resolve_device_type(device) != "cpu":
        # Ranks share views and volume evenly: the smallest GPU limits all.
        found = visible_accelerators()
        smallest = min(each.memory_bytes for each in found)
        return Machine(len(found), len(found), smallest, True, memory_bytes, usable_cores())
    # Ranks that a person asks for share the one memory, however many.
    return Machine(min(usable_cores(), _MOST_RANKS), 4096, memory_bytes, accelerator=False)


def device_notes(device: str) -> list[str]:
    """Return what a person should know of the device that ``auto`` takes on this machine.

    Args:
        device: of the recipe.
    """
    if device == "auto" and accelerator_type() is not None and resolve_device_type(device) == "cpu":
        return [f"no GPU is used: {why_no_accelerator()}"]
    return []


def usable_cores() -> int:
    """Return how many cores this process, and those that it starts, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
