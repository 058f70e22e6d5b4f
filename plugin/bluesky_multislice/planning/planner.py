"""Derivation of a plan from recipe and scan."""

from dataclasses import replace

import numpy as np

from bluesky_multislice.measurement import Scan, angle_warnings, depth_of_field_m, position_warnings
from bluesky_multislice.models import technique_of
from bluesky_multislice.planning.checks import (
    check_depth,
    check_detector_propagation,
    check_fitted,
    check_illumination,
    check_refinement,
    check_slabs,
    schedule_notes,
)
from bluesky_multislice.planning.cost import MachineProfile, data_sheets, machine_name
from bluesky_multislice.planning.defaults import (
    chooses_modes_by_validation,
    fit_settings,
    modes_of,
    smoothing_candidates,
)
from bluesky_multislice.planning.frame_storage import check_frames
from bluesky_multislice.planning.grid import grid_of, margin_from_recipe, slices_of, tiles_of, window_of
from bluesky_multislice.planning.initial_guess import finds_axis, level_notes, start_of
from bluesky_multislice.planning.machine import Machine, device_notes, this_machine
from bluesky_multislice.planning.memory_advice import check_memory
from bluesky_multislice.planning.memory_fit import fit_into_memory
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.ranks import check_device, check_places, device_for, mesh_for
from bluesky_multislice.planning.stages import earlier_plans, with_smaller_steps
from bluesky_multislice.planning.step_sizes import step_sizes
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import split_views

_LANES = 2
"""Default number of lanes, so that meshes of few ranks give the same volume as a single rank."""


def make_plan(recipe: Recipe, scan: Scan, site: Machine | None = None, profile: MachineProfile | None = None) -> Plan:
    """Derive the plan of a reconstruction.

    Args:
        recipe: the recipe.
        scan: the scan.
        site: machine of the job; None: this machine.
        profile: measured times of the machine; None: those of the data sheet of a similar machine.

    Raises:
        PlanError: the recipe does not suit the scan, or the machine has too little memory.
        ScanError: the views have different object pixels, or do not overlap.
    """
    geometry = scan.geometry.oversampled(recipe.oversampling)
    notes = angle_warnings(geometry)
    if technique_of(geometry).overlapping:
        notes = position_warnings(geometry) + notes
    margin = margin_from_recipe(recipe, geometry)
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    slices = recipe.slices or slices_of(recipe, geometry, several_angles)
    grid = grid_of(recipe, geometry, margin, slices, several_angles)
    check_depth(recipe, grid, slices, several_angles)
    depth_of_field = depth_of_field_m(geometry.object_pixel_m[1], geometry.beam.wavelength_m)
    if not several_angles and recipe.depth_um is None:
        notes.append(
            "one angle and no depth_um: a single slice is fitted; only δ·thickness and β·thickness are determined"
        )
    fitted, held = split_views(geometry.views, recipe.held_back_every)
    if recipe.held_back_every and not len(held):
        notes.append("too few views for validation frames: the fit is not validated")
    check_fitted(recipe, geometry.views, len(fitted))
    check_refinement(recipe, geometry, several_angles)
    check_illumination(recipe, scan)
    check_detector_propagation(recipe, geometry)
    check_device(recipe.device, site)
    machine = this_machine(recipe.device) if site is None else site.for_device(recipe.device)
    if site is None:
        notes += device_notes(recipe.device)
    ranks, slabs = mesh_for(recipe, machine, len(fitted))
    check_places(recipe, machine, ranks)
    lanes = recipe.batches_per_step or min(len(fitted), max(_LANES, ranks // (slabs or 1)))
    settings = fit_settings(recipe, geometry, several_angles, fitted=len(fitted), lanes=lanes)
    notes += schedule_notes(recipe, settings) + level_notes(scan)
    if recipe.propagation == "projection":
        slices = 1
    tiles, halo = (1, 1), 0
    if recipe.propagation == "tiled-multislice":
        tiles, halo = tiles_of(geometry, grid, window_of(geometry, margin), recipe.accuracy)
    modes = recipe.probe_modes or modes_of(scan, settings)
    plan = Plan(
        grid=grid,
        propagation=recipe.propagation,
        slices=slices,
        margin=margin,
        edges=recipe.edges,
        interpolation=recipe.interpolation,
        oversampling=recipe.oversampling,
        point_spread_pixels=recipe.point_spread_pixels,
        way_to_detector=recipe.way_to_detector,
        gradient="stored",
        tiles=tiles,
        halo=halo,
        probe_modes=modes,
        modes_by_validation=chooses_modes_by_validation(recipe, scan, modes),
        held_back_every=recipe.held_back_every,
        ranks=ranks,
        slabs=slabs or 1,
        lanes=lanes,
        device=device_for(recipe.device, machine),
        support=recipe.support,
        saturated=recipe.saturated,
        shell_correlation=recipe.shell_correlation,
        fit=settings,
        depths_of_field=grid.thickness_m / depth_of_field,
        memory_bytes=0,
        start=start_of(recipe, geometry),
        find_axis=finds_axis(recipe, geometry),
        smoothings=smoothing_candidates(recipe, settings, len(held)),
        notes=tuple(notes),
        joint_illumination=recipe.illumination == "joint",
        checkpoint_every=recipe.checkpoint_every,
        kernels=recipe.kernels,
    )
    times = profile or data_sheets()[machine_name(machine)].profile
    plan = fit_into_memory(plan, geometry, recipe, slabs, machine, lambda cut: step_sizes(cut, geometry, recipe, times))
    check_slabs(recipe, plan)
    check_frames(plan, geometry, recipe)
    check_memory(plan, geometry, machine)
    earlier = earlier_plans(recipe, geometry, plan)
    return replace(plan, earlier=earlier, fit=with_smaller_steps(plan.fit)) if earlier else plan
