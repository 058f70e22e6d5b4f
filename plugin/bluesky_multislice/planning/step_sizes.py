"""Number of views per step of a fit, balanced for large volumes against the cost of a step.

Every step processes the whole volume: sum over ranks, regularisers, optimiser. Every batch rotates it to its angle and
its gradient back. Small scans use steps of few views from each lane. If rotations and steps would take longer than the
gradients of the views, a batch contains all views of an angle, so that the volume is rotated to each angle once per
epoch. A step then contains several angles of every lane. Their number balances the cost of all steps of an epoch with
that of its gradients, and leaves at least twenty steps. A gradient of several angles has less noise and allows steps
twice as long. They need a quarter more epochs for the same validation misfit
(tests/benchmarks/large_step_benchmark.py).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models import technique_of
from bluesky_multislice.planning.cost import (
    MachineProfile,
    TransformKind,
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
"""Length of large steps relative to small ones, and the number of angles per step from which they may be so long.

Of 1, 2 and 4, a length of 2 reduces the validation misfit fastest. With a single angle per step, such steps are
unstable.
"""

_MORE_EPOCHS = 1.25
"""Ratio of epochs for the same validation misfit, large to small steps."""

_LEAST_BATCH = 32
"""Smallest number of views per batch to which batches are halved if memory is short."""

_FEW_LANES = 2
"""Lanes of the small steps that are compared with large ones, independent of the machine."""


@dataclass(frozen=True)
class _Epoch:
    """Cost of an epoch per rank, in seconds.

    Attributes:
        gradient: gradients of the fitted views, without rotations.
        rotations: rotations of the volume to the batches' angles, and of gradients back.
        step: one step: sum over ranks, regularisers and optimiser.
        steps: number of steps.
    """

    gradient: float
    rotations: float
    step: float
    steps: int


def step_sizes(plan: Plan, geometry: ScanGeometry, recipe: Recipe, profile: MachineProfile) -> Iterator[Plan]:
    """Yield the plan with the best step size, then with smaller batches for machines with little memory.

    Args:
        plan: plan with small steps, ranks and slabs.
        geometry: geometry of the scan, sampled as in the plan.
        recipe: the recipe.
        profile: profile of the machine, which determines the number of large steps per epoch.
    """
    plan = _with_lanes(plan, geometry, recipe)
    if recipe.batch_views or recipe.batches_per_step or not _large_steps_pay(plan, geometry):
        yield plan
        return
    angles, per_angle = _angles_and_views(plan, geometry)
    by_angle = angles >= plan.lanes
    # With few angles, the views of each are divided into several batches, so that enough steps remain.
    parts = math.ceil(STEPS_PER_EPOCH * (plan.lanes if by_angle else 1) / angles)
    views = math.ceil((per_angle if by_angle else per_angle / plan.lanes) / parts)
    while True:
        sized = replace(plan, whole_angles=by_angle, fit=replace(plan.fit, batch_views=views))
        yield _with_steps(sized, geometry, recipe, profile)
        if views <= _LEAST_BATCH:
            return
        views = max(_LEAST_BATCH, math.ceil(views / 2))


def _with_lanes(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> Plan:
    """Return the plan with one lane per group of ranks, if memory requires slabs and groups are fewer than ranks."""
    if recipe.batches_per_step or recipe.mesh or plan.slabs == 1:
        return plan
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    lanes = min(fitted, max(_FEW_LANES, plan.ranks // plan.slabs))
    views = recipe.batch_views or batch_views_of(fitted, lanes, plan.fit.optimiser)
    return replace(plan, lanes=lanes, fit=replace(plan.fit, batch_views=views))


def small_steps(plan: Plan, geometry: ScanGeometry, recipe: Recipe) -> Recipe:
    """Return the recipe that sets the small steps of small scans, for a plan's ranks and slabs."""
    groups = plan.ranks // plan.slabs
    lanes = max(_FEW_LANES, groups)
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    views = batch_views_of(fitted, lanes, plan.fit.optimiser)
    chosen = {"batches_per_step": lanes, "batch_views": views, "mesh": f"{groups}x{plan.slabs}"}
    return recipe.model_copy(update=chosen)


def _with_steps(plan: Plan, geometry: ScanGeometry, recipe: Recipe, profile: MachineProfile) -> Plan:
    """Return the plan with so many batches of each lane per step that the steps cost as much as the gradients."""
    epoch = _epoch_of(plan, geometry, profile)
    wanted = max(STEPS_PER_EPOCH, math.floor(epoch.gradient / epoch.step))
    # Lanes contain different angles, or share one; batches of one angle are consecutive.
    lanes = plan.lanes if plan.whole_angles else 1
    views = _angles_and_views(plan, geometry)[1] * lanes / plan.lanes
    batches = math.ceil(views / plan.fit.batch_views)
    per_lane, for_long = max(1, epoch.steps // wanted), math.ceil(_ANGLES / lanes) * batches
    if epoch.steps >= STEPS_PER_EPOCH * for_long:
        # Longer steps are worth more than a larger number of steps.
        per_lane = max(per_lane, for_long)
    longer = _LONGER if lanes * math.ceil(per_lane / batches) >= _ANGLES else 1.0
    epochs = recipe.epochs or math.ceil(_MORE_EPOCHS * plan.fit.epochs)
    fit = replace(plan.fit, batches_per_lane=per_lane, step=longer * recipe.step, epochs=epochs)
    return replace(plan, fit=fit)


def _large_steps_pay(plan: Plan, geometry: ScanGeometry) -> bool:
    """Return whether small steps would spend more time on the whole volume than on gradients.

    The comparison is for a single GPU, so that the choice is independent of the machine.
    """
    if not technique_of(geometry).overlapping or plan.fit.optimiser != "nesterov":
        return False
    if plan.propagation.startswith("finite-difference"):
        return False
    fitted = len(split_views(geometry.views, plan.held_back_every)[0])
    views = batch_views_of(fitted, _FEW_LANES, plan.fit.optimiser)
    alone = replace(plan, ranks=1, slabs=1, lanes=_FEW_LANES, fit=replace(plan.fit, batch_views=views))
    epoch = _epoch_of(alone, geometry, data_sheets()["a100"].profile)
    return epoch.steps > 2 * STEPS_PER_EPOCH and epoch.rotations + epoch.steps * epoch.step > epoch.gradient


def _epoch_of(plan: Plan, geometry: ScanGeometry, profile: MachineProfile) -> _Epoch:
    """Return the cost of an epoch, as if every angle had the largest number of views."""
    angles, per_angle = _angles_and_views(plan, geometry)
    groups, parts = plan.ranks // plan.slabs, 2 if plan.fit.absorption else 1
    voxels = math.prod(plan.grid.shape) / plan.slabs
    lanes = 1 if plan.whole_angles else plan.lanes
    batches = math.ceil(per_angle / lanes / plan.fit.batch_views)
    window, far_field = window_of(geometry, plan.margin), geometry.detector.regime == "far_field"
    kind = TransformKind(True, far_field, blurred=bool(np.any(geometry.source_blur_m)), fitted=True)
    transforms = transforms_of(plan, 1, window, kind)
    pairs = angles * per_angle / plan.ranks * transforms / 2
    rotations = angles * lanes * batches / groups * 2 * parts
    return _Epoch(
        gradient=pairs * profile.slice_pair(math.prod(window)),
        rotations=rotations * voxels * rotation_seconds_per_voxel(plan, profile),
        step=voxels * step_seconds_per_voxel(plan, profile) + reduction_seconds(plan, 1, profile),
        steps=math.ceil(angles * lanes * batches / plan.lanes / plan.fit.batches_per_lane),
    )


def _angles_and_views(plan: Plan, geometry: ScanGeometry) -> tuple[int, int]:
    """Return the number of angles, and the largest number of fitted views per angle."""
    fitted = split_views(geometry.views, plan.held_back_every)[0]
    counts = np.unique(geometry.angle_rad[fitted], return_counts=True)[1]
    return len(counts), int(counts.max())
