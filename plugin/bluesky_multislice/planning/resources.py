"""Ranks, memory and device."""

import math
import os

import torch

from bluesky_multislice.errors import PlanError
from bluesky_multislice.geometry import ScanGeometry
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import FramesIn


def uses_cuda(device: str) -> bool:
    """Return whether a job computes on GPUs."""
    return device == "cuda" or (device == "auto" and torch.cuda.is_available())


def ranks_for(recipe: Recipe, fitted: int) -> int:
    """Return the number of ranks: one a GPU or core, each with four fitted views at least."""
    places = torch.cuda.device_count() if uses_cuda(recipe.device) else min(os.cpu_count() or 1, 8)
    return max(1, min(places, fitted // 4))


def mesh_for(recipe: Recipe, fitted: int) -> tuple[int, int | None]:
    """Return the number of ranks and, where the recipe gives a mesh, the number of slabs.

    Raises:
        PlanError: ranks and mesh contradict each other, or ranks would have nothing to fit.
    """
    if recipe.mesh is None:
        ranks, slabs = recipe.ranks or ranks_for(recipe, fitted), None
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


def frames_place(views: int, geometry: ScanGeometry, device: str) -> FramesIn:
    """Return where frames are kept: on disk where those of all ranks take more than an eighth of the memory."""
    room, ranks = room_bytes(device, 1)
    return "disk" if views * math.prod(geometry.detector.shape) * 4 > ranks * room / 8 else "memory"


def room_bytes(device: str, ranks: int) -> tuple[int, int]:
    """Return the bytes of memory of a GPU or of this machine, and how many ranks share them."""
    if uses_cuda(device):
        return torch.cuda.get_device_properties(0).total_memory, 1
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), ranks


def check_device(device: str) -> None:
    """Refuse a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise PlanError(
            "The device cuda needs a GPU that PyTorch can use.",
            got="none on this machine.",
            remedy="use device auto or cpu, or install PyTorch's CUDA build and the driver.",
        )


def check_memory(plan: Plan) -> None:
    """Refuse a plan that needs more memory than there is."""
    room, here = room_bytes(plan.device, plan.ranks)
    if plan.memory_bytes * here > room:
        raise PlanError(
            "The reconstruction must fit into memory.",
            got=f"{plan.memory_bytes * here / 2**30:.1f} GiB for {here} ranks on a device with {room / 2**30:.1f} GiB.",
            remedy="use fewer ranks or smaller batches, a smaller depth_um, or bin the frames.",
        )
