"""Ranks, memory and device."""

import torch

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe


def ranks_for(machine: Machine, fitted: int) -> int:
    """Return the number of ranks: one a GPU or core, each with four fitted views at least, as many on every node."""
    wanted = max(1, min(machine.places, fitted // 4))
    if wanted <= machine.places_per_node:
        return wanted
    return wanted - wanted % machine.places_per_node


def mesh_for(recipe: Recipe, machine: Machine, fitted: int) -> tuple[int, int | None]:
    """Return the number of ranks and, where the recipe gives a mesh, the number of slabs.

    Raises:
        PlanError: ranks and mesh contradict each other, or ranks would have nothing to fit.
    """
    if recipe.mesh is None:
        ranks, slabs = recipe.ranks or ranks_for(machine, fitted), None
    else:
        angles, slabs = (int(number) for number in recipe.mesh.split("x"))
        ranks = angles * slabs
        if recipe.ranks not in (None, ranks):
            raise PlanError(
                "A mesh angle x slab multiplies to the number of ranks.",
                got=f"{recipe.ranks} ranks and the mesh {recipe.mesh}.",
                remedy="leave one of them out, or correct it.",
            )
    if ranks > fitted:
        raise PlanError(
            "Every rank needs a view to fit.",
            got=f"{ranks} ranks for {fitted} fitted views.",
            remedy="ask for fewer ranks.",
        )
    return ranks, slabs


def check_device(device: str, machine: Machine | None) -> None:
    """Refuse a GPU that is not there."""
    if device == "cuda" and not (machine.accelerator if machine else torch.cuda.is_available()):
        raise PlanError(
            "The device cuda needs a GPU that PyTorch can use.",
            got="none on this machine." if machine is None else "none on the site's nodes.",
            remedy="use device auto or cpu, or install PyTorch's CUDA build and the driver.",
        )


def device_for(device: str, machine: Machine | None) -> str:
    """Return where ranks compute: on another machine than this one, what its profile says; here it may be ``auto``."""
    if machine is None or device != "auto":
        return device
    return "cuda" if machine.accelerator else "cpu"


def check_memory(plan: Plan, machine: Machine) -> None:
    """Refuse a plan that needs more memory than there is."""
    room, here = machine.memory_bytes, machine.sharing(plan.ranks)
    if plan.memory_bytes * here > room:
        raise PlanError(
            "The reconstruction must fit into memory.",
            got=f"{plan.memory_bytes * here / 2**30:.1f} GiB for {here} ranks on a device with {room / 2**30:.1f} GiB.",
            remedy="use fewer ranks or smaller batches, a smaller depth_um, or bin the frames.",
        )
