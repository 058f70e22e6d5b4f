"""Ranks, memory and device."""

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning.machine import Machine
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


def check_places(recipe: Recipe, machine: Machine, ranks: int) -> None:
    """Refuse more ranks than there are GPUs: two that share one are slower than one, and their exchange refuses it.

    Raises:
        PlanError: there are more ranks.
    """
    if machine.accelerator and ranks > machine.places:
        how = f"mesh {recipe.mesh}" if recipe.mesh else f"ranks {ranks}"
        raise PlanError(
            "Every rank computes on a GPU of its own.",
            got=f"{ranks} ranks ({how}) for {machine.places} GPU{'s' if machine.places > 1 else ''}.",
            remedy=f"ask for {machine.places} or fewer, leave ranks and mesh out, or use processors: device cpu.",
        )


def check_device(device: str, site: Machine | None) -> None:
    """Refuse a GPU that a site's nodes do not have; what this machine has, ``this_machine`` knows.

    Raises:
        PlanError: the recipe insists on a GPU, and the nodes have none.
    """
    if site is not None and device not in ("auto", "cpu") and not site.accelerator:
        raise PlanError(
            f"The device {device} needs a GPU that PyTorch can use.",
            got="none on the site's nodes.",
            remedy="use device auto or cpu, or give gpus_per_node in the site's profile.",
        )


def device_for(device: str, machine: Machine) -> str:
    """Return where ranks compute: what the recipe says or, where that is ``auto``, what was planned for."""
    if device != "auto":
        return device
    return "gpu" if machine.accelerator else "cpu"
