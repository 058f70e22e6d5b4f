"""Derivation of a plan from recipe and scan."""

from dataclasses import dataclass, replace

import numpy as np

from bluesky_multislice.measurement import (
    Scan,
    ScanGeometry,
    VolumeGrid,
    angle_warnings,
    depth_of_field_m,
    move_axis,
    position_warnings,
)
from bluesky_multislice.models import technique_of, way_to_detector
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
from bluesky_multislice.planning.former_start import with_former_result
from bluesky_multislice.planning.frame_storage import check_frames
from bluesky_multislice.planning.grid import grid_of, margin_from_recipe, slices_of, tiles_of, window_of
from bluesky_multislice.planning.initial_guess import aligns, axis_near_edge, finds_axis, level_notes, start_of
from bluesky_multislice.planning.machine import Machine, device_notes, this_machine
from bluesky_multislice.planning.memory_advice import check_memory
from bluesky_multislice.planning.memory_fit import fit_into_memory
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.planning.plan_parts import FitPart, MeshPart, ModelPart, StoragePart, VolumePart
from bluesky_multislice.planning.ranks import check_device, check_places, device_for, mesh_for, prefers_threads
from bluesky_multislice.planning.stages import earlier_plans, with_smaller_steps
from bluesky_multislice.planning.step_sizes import step_sizes
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import split_views

_LANES = 2
"""Default number of lanes, so that meshes of few ranks give the same volume as a single rank."""


@dataclass(frozen=True)
class _Subject:
    """What a plan is made for.

    Attributes:
        recipe: the recipe.
        scan: the scan.
        geometry: the scan's geometry, sampled as in the plan.
        several_angles: whether the views have several angles.
        fitted: number of views to fit.
        held: number of validation views.
        axis_pixels: axis of a half acquisition, about which ``scan`` and ``geometry`` are.
        axis_notes: note on this axis.
    """

    recipe: Recipe
    scan: Scan
    geometry: ScanGeometry
    several_angles: bool
    fitted: int
    held: int
    axis_pixels: float
    axis_notes: list[str]

    @classmethod
    def of(cls, recipe: Recipe, scan: Scan) -> "_Subject":
        """Return the subject of a recipe and a scan, with the positions from which the fit starts."""
        axis_pixels, axis_notes = 0.0, list[str]()
        if scan.former is not None and scan.former.has_views_of(scan.geometry):
            scan = replace(scan, geometry=scan.former.moved(scan.geometry))
        else:
            axis_pixels, axis_notes = axis_near_edge(recipe, scan)
            scan = move_axis(scan, axis_pixels, scan.geometry.object_pixel_m[1])
        geometry = scan.geometry.oversampled(recipe.oversampling)
        fitted, held = split_views(geometry.views, recipe.held_back_every)
        several_angles = len(np.unique(geometry.angle_rad)) > 1
        return cls(recipe, scan, geometry, several_angles, len(fitted), len(held), axis_pixels, axis_notes)


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
    subject = _Subject.of(recipe, scan)
    check_device(recipe.device, site)
    machine = this_machine(recipe.device) if site is None else site.for_device(recipe.device)
    notes = device_notes(recipe.device) if site is None else []
    plan = _plan_on(machine, subject, scan, notes, profile)
    if site is None and prefers_threads(recipe, plan):
        plan = _plan_on(replace(machine, places=machine.places // 2), subject, scan, notes, profile)
    return plan


def _plan_on(
    machine: Machine, subject: _Subject, scan: Scan, notes_on_device: list[str], profile: MachineProfile | None
) -> Plan:
    """Derive the plan on a machine, for a scan with its stored positions; see ``make_plan``."""
    recipe, geometry, notes = subject.recipe, subject.geometry, _scan_notes(subject)
    margin = margin_from_recipe(recipe, geometry)
    slices = recipe.slices or slices_of(recipe, geometry, subject.several_angles)
    volume = _volume(subject, margin, slices)
    _check(subject)
    mesh, slabs = _mesh(subject, machine)
    fit, former_notes = with_former_result(_fit(subject, mesh.lanes), recipe, scan, volume.grid)
    notes += notes_on_device + schedule_notes(recipe, fit.fit) + level_notes(scan) + former_notes
    model = _model(subject, volume.grid, margin, slices, fit)
    storage = StoragePart(
        gradient="stored", memory_bytes=0, checkpoint_every=recipe.checkpoint_every, notes=tuple(notes)
    )
    plan = Plan.of_parts(volume, model, fit, mesh, storage)
    times = profile or data_sheets()[machine_name(machine)].profile
    plan = fit_into_memory(plan, geometry, recipe, slabs, machine, lambda cut: step_sizes(cut, geometry, recipe, times))
    check_slabs(plan)
    check_frames(plan, geometry, recipe)
    check_memory(plan, geometry, machine)
    # A former volume has the details that coarse fits would remove.
    earlier = () if "volume" in plan.from_former else earlier_plans(recipe, geometry, plan)
    near = bool(earlier or plan.from_former)
    return replace(plan, earlier=earlier, fit=with_smaller_steps(plan.fit)) if near else plan


def _scan_notes(subject: _Subject) -> list[str]:
    """Return notes on the scan's geometry and views."""
    recipe, geometry = subject.recipe, subject.geometry
    notes = position_warnings(geometry) if technique_of(geometry).overlapping else []
    notes += angle_warnings(geometry) + subject.axis_notes
    if not subject.several_angles and recipe.depth_um is None:
        notes.append(
            "one angle and no depth_um: a single slice is fitted; only δ·thickness and β·thickness are determined"
        )
    if recipe.held_back_every and not subject.held:
        notes.append("too few views for validation frames: the fit is not validated")
    return notes


def _check(subject: _Subject) -> None:
    """Check that the recipe suits the scan."""
    recipe, geometry = subject.recipe, subject.geometry
    check_fitted(recipe, geometry.views, subject.fitted)
    check_refinement(recipe, geometry, subject.several_angles)
    check_illumination(recipe, subject.scan)
    check_detector_propagation(recipe, geometry)


def _volume(subject: _Subject, margin: int, slices: int) -> VolumePart:
    recipe, geometry = subject.recipe, subject.geometry
    grid = grid_of(recipe, geometry, margin, slices, subject.several_angles)
    check_depth(recipe, grid, slices, subject.several_angles)
    depth_of_field = depth_of_field_m(geometry.object_pixel_m[1], geometry.beam.wavelength_m)
    return VolumePart(
        grid=grid,
        depths_of_field=grid.thickness_m / depth_of_field,
        support=recipe.support,
        axis_pixels=subject.axis_pixels,
    )


def _model(subject: _Subject, grid: VolumeGrid, margin: int, slices: int, fit: FitPart) -> ModelPart:
    recipe, geometry = subject.recipe, subject.geometry
    tiles, halo = (1, 1), 0
    if recipe.propagation == "tiled-multislice":
        tiles, halo = tiles_of(geometry, grid, window_of(geometry, margin), recipe.accuracy)
    former = subject.scan.former if "probe" in fit.from_former else None
    modes = recipe.probe_modes or (len(former.probe) if former else modes_of(subject.scan, fit.fit))
    return ModelPart(
        propagation=recipe.propagation,
        slices=1 if recipe.propagation == "projection" else slices,
        margin=margin,
        edges=recipe.edges,
        interpolation=recipe.interpolation,
        oversampling=recipe.oversampling,
        point_spread_pixels=recipe.point_spread_pixels,
        way_to_detector=recipe.way_to_detector or way_to_detector(geometry),
        tiles=tiles,
        halo=halo,
        probe_modes=modes,
        modes_by_validation=former is None and chooses_modes_by_validation(recipe, subject.scan, modes),
        saturated=recipe.saturated,
        joint_illumination=recipe.illumination == "joint",
    )


def _mesh(subject: _Subject, machine: Machine) -> tuple[MeshPart, int | None]:
    """Return the ranks, and the number of slabs if the recipe sets a mesh."""
    recipe = subject.recipe
    ranks, slabs = mesh_for(recipe, machine, subject.fitted)
    check_places(recipe, machine, ranks)
    lanes = recipe.batches_per_step or min(subject.fitted, max(_LANES, ranks // (slabs or 1)))
    device = device_for(recipe.device, machine)
    return MeshPart(ranks=ranks, slabs=slabs or 1, lanes=lanes, device=device, kernels=recipe.kernels), slabs


def _fit(subject: _Subject, lanes: int) -> FitPart:
    recipe, geometry = subject.recipe, subject.geometry
    settings = fit_settings(recipe, geometry, subject.several_angles, fitted=subject.fitted, lanes=lanes)
    return FitPart(
        fit=settings,
        held_back_every=recipe.held_back_every,
        start=start_of(recipe, geometry),
        align=aligns(recipe, geometry),
        find_axis=finds_axis(recipe, geometry) and not subject.axis_pixels,
        smoothings=smoothing_candidates(recipe, settings, subject.held),
        shell_correlation=recipe.shell_correlation,
    )
