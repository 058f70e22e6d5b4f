"""Where the frames of a rank are kept, and how many of them at a time, within the memory that they may take."""

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
"""Part of the memory that the frames of all ranks may take where a recipe does not say how much."""

_WITH_COARSER = 5 / 4
"""Bytes of frames with their copies for a coarser fit over those of the frames."""

_MIB = 2**20


def with_frame_storage(plan: Plan, geometry: ScanGeometry, recipe: Recipe, machine: Machine) -> Plan:
    """Return the plan with the place of the frames: on disk where they would take more memory than they may.

    Args:
        plan: with its ranks, slabs and tiles of frames.
        geometry: of the scan, as finely sampled as the plan says.
        recipe: what a person chose.
        machine: where the job computes.
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
        room = machine.memory_bytes * _SHARE / machine.sharing(plan.ranks) if most is None else most
        # Besides, there are the holograms of an angle, and the one that is read.
        of_an_angle = 1 + len(np.unique(geometry.effective_distance_m))
        at_once = max(1, int(room / (4 * math.prod(plan.grid.shape[1:]))) - of_an_angle)
    return replace(plan, frames_in=place, batches_ahead=ahead, angles_at_once=at_once)


def check_frames(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> None:
    """Refuse frames that take more memory than they may.

    Args:
        plan: with the place of the frames.
        geometry: of the scan, as finely sampled as the plan says.
        recipe: what a person chose.

    Raises:
        PlanError: all frames of a rank, where a recipe keeps them in memory, or those of a batch are too large.
    """
    most = _most_bytes(recipe)
    kept, batch = _kept_bytes(plan, geometry, recipe), batch_bytes(plan, geometry)
    if most is None or (kept if plan.frames_in == "memory" else batch) <= most:
        return
    if plan.frames_in == "memory":
        raise PlanError(
            "Frames that are kept in memory must fit into what they may take.",
            got=f"{kept / _MIB:.3g} MiB of a rank, and frames_memory_gib {recipe.frames_memory_gib:g}.",
            remedy="leave frames_in out, so that they are read from disk as they are needed, or allow more.",
        )
    raise PlanError(
        "The frames of a batch must fit into what frames may take.",
        got=f"{plan.fit.batch_views} frames of {frame_bytes(plan, geometry) / _MIB:.3g} MiB, and frames_memory_gib "
        f"{recipe.frames_memory_gib:g}.",
        remedy="ask for fewer batch_views, or allow more.",
    )


def frame_bytes(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the bytes of what a rank keeps of a frame: all of it, or its tile."""
    rows, columns = (n // plan.oversampling for n in geometry.detector.shape)
    if plan.frame_tiles is not None:
        rows = max(last - first for first, last in plan.frame_tiles.rows)
    return 4 * rows * columns


def batch_bytes(plan: Plan, geometry: ScanGeometry) -> float:
    """Return the most bytes of the frames of a batch that a rank keeps; it may compute all of its views."""
    return plan.fit.batch_views * frame_bytes(plan, geometry)


def _most_bytes(recipe: Recipe) -> float | None:
    return None if recipe.frames_memory_gib is None else recipe.frames_memory_gib * 2**30


def _kept_bytes(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> float:
    """Return the most bytes of frames of a rank: all of them with copies for coarser fits, or a first volume's phases.

    Those it has of whole frames, of its share of the angles, beside the holograms that they are made of.
    """
    groups, count = plan.ranks // plan.slabs, np.zeros((plan.ranks // plan.slabs, plan.slabs), int)
    rank_of_view = None if plan.frame_tiles else _ranks_of_views(plan, geometry)
    fitted, held = split_views(geometry.views, plan.held_back_every)
    sectors = geometry.angle_rad if plan.whole_angles else None
    group_of_view = assign_lanes(fitted, plan.lanes, sectors) % groups
    judged = share_held_back(held, geometry.angle_rad, groups)
    for number in range(groups):
        for own in (fitted[group_of_view == number], judged[number]):
            count[number] += len(own) if rank_of_view is None else np.bincount(rank_of_view[own], minlength=plan.slabs)
    kept = int(count.max()) * frame_bytes(plan, geometry) * (_WITH_COARSER if recipe.coarse_levels else 1)
    if plan.start == "empty":
        return kept
    angles, ways = np.unique(geometry.angle_rad), np.unique(geometry.effective_distance_m)
    field = 4 * math.prod(plan.grid.shape[1:])
    return max(kept, math.ceil(len(angles) / plan.ranks) * (1 + len(ways)) * field)


def _ranks_of_views(plan: Plan, geometry: ScanGeometry) -> NDArray[np.intp]:
    """Return what the forward model will say of a plan's views, without one."""
    window, height = window_of(geometry, plan.margin)[0], plan.grid.shape[1]
    off_m = geometry.position_m[:, 0] - plan.grid.center_m[1]
    first = off_m / plan.grid.voxel_size_m[1] + (height - window) / 2
    return ranks_of_views(first, window, height, plan.slabs)
