"""How many views a step of the fit takes where the volume is large: so many that the step costs about what they do.

Every step goes through the whole volume: sum over ranks, regularisers, optimiser. Every batch turns it to its angle,
there and back. Small scans take steps of few views from each lane. Where that would take longer than the gradient of
the views, all views of an angle are a batch, so that the volume is turned to each angle once in an epoch, and a step
takes several angles of every lane: as many as make all steps of an epoch cost what its gradients do, and no more than
leave twenty steps. A gradient of several angles has less noise and bears steps twice as long, with which validation
frames are explained as well after a quarter more epochs (tests/benchmarks/large_step_benchmark.py).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models import technique_of
from bluesky_multislice.planning.cost import (
    MachineProfile,
    data_sheets,
    reduction_seconds,
    rotation_seconds_per_voxel,
    step_seconds_per_voxel,
    transforms_of,
)
from bluesky_multislice.planning.defaults import STEPS_PER_EPOCH, batch_views_of
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import split_views

_LONGER, _ANGLES = 2.0, 3
"""Length of large steps over that of small ones, of 1, 2 and 4 the one that explains validation frames soonest; and
angles of a step from which on it may be so long: with all views of one angle a fit wanders about."""

_MORE_EPOCHS = 1.25
"""Epochs of large steps over those of small ones, to the same misfit of validation frames."""

_LEAST_BATCH = 32
"""Views of a batch that is not halved again where memory is short."""

_FEW_LANES = 2
"""Lanes of the small steps by which a scan is judged, whatever the machine."""


@dataclass(frozen=True)
class _Epoch:
    """Cost of an epoch per rank, in seconds.

    Attributes:
        gradient: of the views that are fitted, without turns.
        turns: of the volume to the batches' angles, and back.
        step: of one step: sum over ranks, regularisers and optimiser.
        steps: how many there are.
    """

    gradient: float
    turns: float
    step: float
    steps: int


def step_sizes(plan: Plan, geometry: ScanGeometry, recipe: Recipe, profile: MachineProfile) -> Iterator[Plan]:
    """Yield the plan with steps as large as they should be, then with smaller batches, for machines of little memory.

    Args:
        plan: with small steps, its ranks and slabs.
        geometry: of the scan, as finely sampled as the plan says.
        recipe: what a person chose.
        profile: of the machine that computes; it says how many steps an epoch of large ones has.
    """
    plan = _with_lanes(plan, geometry, recipe)
    if recipe.batch_views or recipe.batches_per_step or not _large_steps_pay(plan, geometry):
        yield plan
        return
    angles, per_angle = _angles_and_views(plan, geometry)
    by_angle = angles >= plan.lanes
    # Few angles: the views of each make several batches, so that enough steps are left.
    parts = math.ceil(STEPS_PER_EPOCH * (plan.lanes if by_angle else 1) / angles)
    views = math.ceil((per_angle if by_angle else per_angle / plan.lanes) / parts)
    while True:
        sized = replace(plan, whole_angles=by_angle, fit=replace(plan.fit, batch_views=views))
        yield _with_steps(sized, geometry, recipe, profile)
        if views <= _LEAST_BATCH:
            return
        views = max(_LEAST_BATCH, math.ceil(views / 2))


def _with_lanes(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> Plan:
    """Return the plan with a lane for each group of ranks, where memory asked for slabs: fewer than there are ranks."""
    if recipe.batches_per_step or recipe.mesh or plan.slabs == 1:
        return plan
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    lanes = min(fitted, max(_FEW_LANES, plan.ranks // plan.slabs))
    views = recipe.batch_views or batch_views_of(fitted, lanes, plan.fit.optimiser)
    return replace(plan, lanes=lanes, fit=replace(plan.fit, batch_views=views))


def small_steps(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> Recipe:
    """Return the recipe that asks for the steps of few views which small scans have, on a plan's ranks and slabs."""
    groups = plan.ranks // plan.slabs
    lanes = max(_FEW_LANES, groups)
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    views = batch_views_of(fitted, lanes, plan.fit.optimiser)
    chosen = {"batches_per_step": lanes, "batch_views": views, "mesh": f"{groups}x{plan.slabs}"}
    return recipe.model_copy(update=chosen)


def _with_steps(plan: Plan, geometry: ScanGeometry, recipe: Recipe, profile: MachineProfile) -> Plan:
    """Return the plan with as many batches of each lane in a step as make steps cost what gradients do."""
    epoch = _epoch_of(plan, geometry, profile)
    wanted = max(STEPS_PER_EPOCH, math.floor(epoch.gradient / epoch.step))
    # Lanes take different angles, or share one; batches of one angle follow each other.
    lanes = plan.lanes if plan.whole_angles else 1
    views = _angles_and_views(plan, geometry)[1] * lanes / plan.lanes
    batches = math.ceil(views / plan.fit.batch_views)
    per_lane, for_long = max(1, epoch.steps // wanted), math.ceil(_ANGLES / lanes) * batches
    if epoch.steps >= STEPS_PER_EPOCH * for_long:
        # Long steps are worth more than many.
        per_lane = max(per_lane, for_long)
    longer = _LONGER if lanes * math.ceil(per_lane / batches) >= _ANGLES else 1.0
    epochs = recipe.epochs or math.ceil(_MORE_EPOCHS * plan.fit.epochs)
    fit = replace(plan.fit, batches_per_lane=per_lane, step=longer * recipe.step, epochs=epochs)
    return replace(plan, fit=fit)


def _large_steps_pay(plan: Plan, geometry: ScanGeometry) -> bool:
    """Return whether going through the whole volume would take longer than the gradient, with small steps.

    It is judged for a single GPU, so that the choice does not depend on the machine that computes.
    """
    if not technique_of(geometry).overlapping or plan.fit.optimiser != "nesterov":
        return False
    if plan.propagation.startswith("finite-difference"):
        return False
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    views = batch_views_of(fitted, _FEW_LANES, plan.fit.optimiser)
    alone = replace(plan, ranks=1, slabs=1, lanes=_FEW_LANES, fit=replace(plan.fit, batch_views=views))
    epoch = _epoch_of(alone, geometry, data_sheets()["a100"].profile)
    return epoch.steps > 2 * STEPS_PER_EPOCH and epoch.turns + epoch.steps * epoch.step > epoch.gradient


def _epoch_of(plan: Plan, geometry: ScanGeometry, profile: MachineProfile) -> _Epoch:
    """Return what an epoch costs, as if every angle had the most views of any."""
    angles, per_angle = _angles_and_views(plan, geometry)
    groups, parts = plan.ranks // plan.slabs, 2 if plan.fit.absorption else 1
    voxels = math.prod(plan.grid.shape) / plan.slabs
    lanes = 1 if plan.whole_angles else plan.lanes
    batches = math.ceil(per_angle / lanes / plan.fit.batch_views)
    window, far_field = window_of(geometry, plan.margin), geometry.detector.regime == "far_field"
    transforms = transforms_of(plan, 1, window, True, far_field, bool(np.any(geometry.source_blur_m)), True)
    pairs = angles * per_angle / plan.ranks * transforms / 2
    turns = angles * lanes * batches / groups * 2 * parts
    return _Epoch(
        gradient=pairs * profile.slice_pair(math.prod(window)),
        turns=turns * voxels * rotation_seconds_per_voxel(plan, profile),
        step=voxels * step_seconds_per_voxel(plan, profile) + reduction_seconds(plan, 1, profile),
        steps=math.ceil(angles * lanes * batches / plan.lanes / plan.fit.batches_per_lane),
    )


def _angles_and_views(plan: Plan, geometry: ScanGeometry) -> tuple[int, int]:
    """Return the number of angles, and the most views to fit at one."""
    fitted = split_views(geometry.views, plan.held_back_every)[0]
    counts = np.unique(geometry.angle_rad[fitted], return_counts=True)[1]
    return len(counts), int(counts.max())
