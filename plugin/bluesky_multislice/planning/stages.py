"""Cheaper fits that run before the fit of a recipe."""

import math
from dataclasses import replace

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.planning.defaults import WEIGHTED_PROBE_STEP
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import FitSettings, Priors, RefinementSettings

_LATER_STEPS = 0.3
"""Steps of Adam in a fit that starts from an earlier one, relative to a first fit."""


_LEAST_COARSE = 8
"""Smallest size of the coarsest frames, pixels per side."""


def with_smaller_steps(settings: FitSettings) -> FitSettings:
    """Return settings with smaller steps, because Adam's first steps would undo an initial guess near the solution."""
    return _with_steps_times(_LATER_STEPS, settings)


def _with_steps_times(factor: float, settings: FitSettings) -> FitSettings:
    return replace(settings, object_step_rad=factor * settings.object_step_rad, probe_step=factor * settings.probe_step)


def earlier_plans(recipe: Recipe, geometry: ScanGeometry, plan: Plan) -> tuple[Plan, ...]:
    """Return the cheaper fits that run first, coarsest first; they refine only object and probe."""
    levels = recipe.coarse_levels
    factors = [2**level for level in range(levels, 0, -1)]
    if recipe.first_propagation is not None and not factors:
        factors = [1]
    if factors and any(n % factors[0] for n in geometry.detector.shape):
        raise PlanError(
            "A coarser fit needs frames whose size is a multiple of its factor.",
            got=f"frames of {geometry.detector.shape} for a fit {factors[0]} times coarser.",
            remedy="use fewer coarse_levels.",
        )
    if factors and any(n < factors[0] * _LEAST_COARSE for n in geometry.detector.shape):
        raise PlanError(
            f"A coarser fit needs frames of at least {_LEAST_COARSE} pixels per side.",
            got=f"frames of {geometry.detector.shape} for a fit {factors[0]} times coarser.",
            remedy="use fewer coarse_levels.",
        )
    if factors and factors[0] > 1 and geometry.field_shape != geometry.detector.shape:
        raise PlanError(
            "A coarser fit needs frames of one magnification.",
            got=f"frames that cover {geometry.detector.shape} to {geometry.field_shape} of the smallest pixels.",
            remedy="leave coarse_levels out.",
        )
    along_z = factors if len(np.unique(geometry.angle_rad)) > 1 else [1] * len(factors)
    propagation = recipe.first_propagation or plan.propagation
    return tuple(
        _coarser(plan, (deeper, factor, factor), propagation) for factor, deeper in zip(factors, along_z, strict=True)
    )


def _coarser(plan: Plan, factors: tuple[int, int, int], propagation: str) -> Plan:
    """Return the plan of a fit on a grid coarser by factors (z, y, x); its depth of field is larger by their square."""
    grid, factor = plan.grid, factors[-1]
    pitch = [size * times for size, times in zip(grid.voxel_size_m, factors, strict=True)]
    shape = [math.ceil(n / times) for n, times in zip(grid.shape, factors, strict=True)]
    slices = 1 if propagation == "projection" else math.ceil(plan.slices / factor**2)
    return replace(
        plan,
        grid=VolumeGrid((shape[0], shape[1], shape[2]), (pitch[0], pitch[1], pitch[2]), grid.center_m),
        propagation=propagation,
        slices=slices,
        margin=plan.margin // factor,
        halo=math.ceil(plan.halo / factor),
        frame_tiles=plan.frame_tiles.coarser(factor) if plan.frame_tiles else None,
        fit=replace(plan.fit, refinement=plan.fit.refinement.probe_only, polish=0, probe_variations=0),
        shell_correlation=False,
        coarseness=factor,
    )


def with_probe_intensity(plan: Plan, intensity: float) -> Plan:
    """Return the plan whose fits bound the probe by the frames' intensity, mean |probe|² per pixel over the scale."""
    earlier = tuple(with_probe_intensity(stage, intensity) for stage in plan.earlier)
    return replace(plan, fit=replace(plan.fit, probe_light=intensity), earlier=earlier)


def with_probe_modes(plan: Plan, modes: int, note: str) -> Plan:
    """Return the plan with a fixed number of probe modes, and a note that gives the reason."""
    earlier = tuple(with_probe_modes(stage, modes, note) for stage in plan.earlier)
    notes = (*plan.notes, note)
    return replace(plan, probe_modes=modes, modes_by_validation=False, notes=notes, earlier=earlier)


def without_former_volume(plan: Plan) -> Plan:
    """Return the plan of a fit whose initial volume does not come from the former result, with full steps."""
    if "volume" not in plan.from_former:
        return plan
    fit = plan.fit if plan.earlier else _with_steps_times(1 / _LATER_STEPS, plan.fit)
    taken = tuple(name for name in plan.from_former if name != "volume")
    earlier = tuple(replace(stage, from_former=taken) for stage in plan.earlier)
    return replace(plan, fit=fit, from_former=taken, earlier=earlier)


def with_refined_shifts(plan: Plan) -> Plan:
    """Return the plan whose last fit refines the shift of every angle, unless it refines positions already."""
    refinement = plan.fit.refinement
    if {"axis_shift", "positions"} & set(refinement.quantities):
        return plan
    refinement = replace(refinement, quantities=(*refinement.quantities, "axis_shift"))
    return replace(plan, fit=replace(plan.fit, refinement=refinement))


def thin_plan(plan: Plan, *, epochs: int, batch_views: int) -> Plan:
    """Return the plan of a short fit to the views of one angle, with the sample as a single thin slice.

    Args:
        plan: plan of the reconstruction.
        epochs: number of epochs.
        batch_views: views that a rank computes at once.
    """
    grid = plan.grid
    # The probe is refined from the first epoch, within the bounds of its power.
    of_probe = replace(plan.fit.refinement.schedule_of("probe"), from_epoch=1, strength=1.0)
    plane = VolumeGrid((1, *grid.shape[1:]), (grid.thickness_m, *grid.voxel_size_m[1:]), grid.center_m)
    settings = replace(
        plan.fit,
        epochs=epochs,
        batch_views=batch_views,
        batches_per_lane=1,
        optimiser="weighted",
        probe_step=WEIGHTED_PROBE_STEP,
        positivity=False,
        priors=Priors(),
        beta_over_delta_min=None,
        beta_over_delta_max=None,
        refinement=RefinementSettings(schedules={"probe": of_probe}),
        polish=0,
        probe_variations=0,
    )
    return replace(plan, grid=plane, propagation="projection", slices=1, fit=settings)
