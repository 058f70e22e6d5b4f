"""Storage of a rank's frames, in memory or on disk, within the memory limit for frames."""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.parallel import ranks_of_views
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.machine import Machine
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import assign_lanes, share_held_back, split_views

_SHARE = 1 / 8
"""Fraction of the memory for the frames of all ranks, if the recipe does not set a limit."""

_WITH_COARSER = 5 / 4
"""Memory of frames with copies for a coarser fit, relative to the frames."""

_MIB = 2**20


def with_frame_storage(plan: Plan, geometry: ScanGeometry, recipe: Recipe, machine: Machine) -> Plan:
    """Return the plan with the storage of the frames: on disk if they exceed their memory limit.

    Args:
        plan: plan with its ranks, slabs and tiles of frames.
        geometry: geometry of the scan, sampled as in the plan.
        recipe: the recipe.
        machine: machine of the job.
    """
    most, ahead = _most_bytes(recipe), 1
    if most is None:
        all_ranks = geometry.views * 4 * math.prod(geometry.detector.shape)
        too_many = all_ranks > machine.sharing(1) * machine.memory_bytes * _SHARE
    else:
        too_many, ahead = _kept_bytes(plan, geometry, recipe) > most, int(2 * batch_bytes(plan, geometry) <= most)
    place = recipe.frames_in or ("disk" if too_many else "memory")
    at_once = None
    if place == "disk":
        available = machine.memory_bytes * _SHARE / machine.sharing(plan.ranks) if most is None else most
        # Memory also holds the holograms of an angle, and the one that is being read.
        images_per_angle = 1 + len(np.unique(geometry.effective_distance_m))
        at_once = max(1, int(available / (4 * math.prod(plan.grid.shape[1:]))) - images_per_angle)
    return replace(plan, frames_in=place, batches_ahead=ahead, angles_at_once=at_once)


def check_frames(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> None:
    """Check that frames fit into their memory limit.

    Args:
        plan: plan with the storage of the frames.
        geometry: geometry of the scan, sampled as in the plan.
        recipe: the recipe.

    Raises:
        PlanError: the frames of a rank (in memory) or of a batch (on disk) exceed the limit.
    """
    most = _most_bytes(recipe)
    kept, batch = _kept_bytes(plan, geometry, recipe), batch_bytes(plan, geometry)
    if most is None or (kept if plan.frames_in == "memory" else batch) <= most:
        return
    if plan.frames_in == "memory":
        raise PlanError(
            "Frames kept in memory must fit into frames_memory_gib.",
            got=f"{kept / _MIB:.3g} MiB per rank, and frames_memory_gib {recipe.frames_memory_gib:g}.",
            remedy="leave frames_in out, so that frames are read from disk on demand, or increase frames_memory_gib.",
        )
    raise PlanError(
        "The frames of a batch must fit into frames_memory_gib.",
        got=f"{plan.fit.batch_views} frames of {frame_bytes(plan, geometry) / _MIB:.3g} MiB, and frames_memory_gib "
        f"{recipe.frames_memory_gib:g}.",
        remedy="use fewer batch_views, or increase frames_memory_gib.",
    )


def frame_bytes(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of a frame that a rank keeps, whole or as a tile."""
    rows, columns = (n // plan.oversampling for n in geometry.detector.shape)
    if plan.frame_tiles is not None:
        rows = max(last - first for first, last in plan.frame_tiles.rows)
    return 4 * rows * columns


def batch_bytes(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the largest number of bytes of a batch's frames on a rank, which may compute all of its views."""
    return plan.fit.batch_views * frame_bytes(plan, geometry)


def _most_bytes(recipe: Recipe) -> float | None:
    return None if recipe.frames_memory_gib is None else recipe.frames_memory_gib * 2**30


def _kept_bytes(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> float:
    """Return the largest memory of a rank's frames with coarser copies, or of the initial volume's phases, in bytes.

    The phases are those of whole frames for the rank's share of the angles, with the holograms of one angle.
    """
    groups, count = plan.ranks // plan.slabs, np.zeros((plan.ranks // plan.slabs, plan.slabs), int)
    rank_of_view = None if plan.frame_tiles else _ranks_of_views(plan, geometry)
    fitted, held = split_views(geometry.views, plan.held_back_every)
    sectors = geometry.angle_rad if plan.whole_angles else None
    group_of_view = assign_lanes(fitted, plan.lanes, sectors) % groups
    validation = share_held_back(held, geometry.angle_rad, groups)
    for number in range(groups):
        for own in (fitted[group_of_view == number], validation[number]):
            count[number] += len(own) if rank_of_view is None else np.bincount(rank_of_view[own], minlength=plan.slabs)
    kept = int(count.max()) * frame_bytes(plan, geometry) * (_WITH_COARSER if recipe.coarse_levels else 1)
    if plan.start == "empty":
        return kept
    angles, distances = np.unique(geometry.angle_rad), np.unique(geometry.effective_distance_m)
    field = 4 * math.prod(plan.grid.shape[1:])
    return max(kept, math.ceil(len(angles) / plan.ranks) * (1 + len(distances)) * field)


def _ranks_of_views(plan: Plan, geometry: ScanGeometry) -> NDArray[np.intp]:
    """Return the same as ``Plan.ranks_of_views``, without a forward model."""
    window, height = window_of(geometry, plan.margin)[0], plan.grid.shape[1]
    offset_m = geometry.position_m[:, 0] - plan.grid.center_m[1]
    first = offset_m / plan.grid.voxel_size_m[1] + (height - window) / 2
    return ranks_of_views(first, window, height, plan.slabs)
