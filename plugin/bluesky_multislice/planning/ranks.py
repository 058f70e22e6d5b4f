"""Number of ranks, mesh and device."""

import os

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel import requested_threads
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe

_FEW_VIEWS = 100
"""Views per step up to which one rank with two threads is at least as fast as two ranks on two cores.

Speedups on two cores over one (docs/scale-out.md): two threads 1.2 to 1.4 and two ranks 0.8 to 1.4 at steps of up to 46
views, 1.46 and 1.53 at 137, 1.09 and 1.75 at 855.
"""


def ranks_for(machine: Machine, fitted: int) -> int:
    """Return the number of ranks: one per GPU or core, with at least four fitted views each, equal on all nodes."""
    wanted = max(1, min(machine.places, fitted // 4))
    if wanted <= machine.places_per_node:
        return wanted
    return wanted - wanted % machine.places_per_node


def mesh_for(recipe: Recipe, machine: Machine, fitted: int) -> tuple[int, int | None]:
    """Return the number of ranks, and the number of slabs if the recipe sets a mesh.

    Raises:
        PlanError: ranks and mesh contradict each other, or there are more ranks than views to fit.
    """
    if recipe.mesh is None:
        ranks, slabs = recipe.ranks or ranks_for(machine, fitted), None
    else:
        angles, slabs = (int(number) for number in recipe.mesh.split("x"))
        ranks = angles * slabs
        if recipe.ranks not in (None, ranks):
            raise PlanError(
                "The mesh angle x slab must have as many ranks as the recipe.",
                got=f"{recipe.ranks} ranks and the mesh {recipe.mesh}.",
                remedy="leave one of them out, or correct it.",
            )
    if ranks > fitted:
        raise PlanError(
            "Every rank needs a view to fit.",
            got=f"{ranks} ranks for {fitted} fitted views.",
            remedy="use fewer ranks.",
        )
    return ranks, slabs


def prefers_threads(recipe: Recipe, plan: Plan) -> bool:
    """Return whether half as many ranks, with twice the threads, are faster on the cores of this machine.

    They are where a step has few views, because ranks sum their gradients in every step. A choice of ranks in the
    recipe, and of threads in the environment, is kept.
    """
    chosen = recipe.ranks or recipe.mesh or requested_threads(os.environ)
    step = plan.lanes * plan.fit.batches_per_lane * plan.fit.batch_views
    return not chosen and plan.device == "cpu" and plan.ranks > plan.slabs == 1 and step <= _FEW_VIEWS


def check_places(recipe: Recipe, machine: Machine, ranks: int) -> None:
    """Check that there are no more ranks than GPUs; ranks that share a GPU are slower, and NCCL refuses them.

    Raises:
        PlanError: there are more ranks than GPUs.
    """
    if machine.accelerator and ranks > machine.places:
        how = f"mesh {recipe.mesh}" if recipe.mesh else f"ranks {ranks}"
        raise PlanError(
            "Every rank needs its own GPU.",
            got=f"{ranks} ranks ({how}) for {machine.places} GPU{'s' if machine.places > 1 else ''}.",
            remedy=f"use {machine.places} ranks or fewer, leave ranks and mesh out, or use CPUs with device cpu.",
        )


def check_device(device: str, site: Machine | None) -> None:
    """Check that a site's nodes have a GPU if the recipe requires one; ``this_machine`` checks this machine.

    Raises:
        PlanError: the recipe requires a GPU, and the nodes have none.
    """
    if site is not None and device not in ("auto", "cpu") and not site.accelerator:
        raise PlanError(
            f"The device {device} needs a GPU that PyTorch can use.",
            got="none on the site's nodes.",
            remedy="use device auto or cpu, or give gpus_per_node in the site's profile.",
        )


def device_for(device: str, machine: Machine) -> str:
    """Return the device of the ranks: the recipe's, or for ``auto`` the one that the plan is made for."""
    if device != "auto":
        return device
    return "gpu" if machine.accelerator else "cpu"
