"""Checks that a recipe suits a scan."""

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan, ScanGeometry, Scheduled, VolumeGrid
from bluesky_multislice.models import technique_of
from bluesky_multislice.parallel import check_rows
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import FitSettings


def check_refinement(recipe: Recipe, geometry: ScanGeometry, several_angles: bool) -> None:
    """Raise ``PlanError`` if the frames do not depend on a quantity to refine."""
    several_distances = geometry.detector.regime == "near_field" and len(np.unique(geometry.effective_distance_m)) > 1
    quantities = recipe.refine.quantities
    angles = "several angles" if several_angles else "one angle"
    for names, possible, rule in (
        (
            ("distance_shift", "distance_magnification", "distance_rotation"),
            several_distances,
            "Differences between distances can be refined only for several distances in the near field.",
        ),
        (("slice_spacing",), not several_angles, "slice_spacing can be refined only at one angle."),
        (("slice_spacing",), recipe.depth_um is not None, "slice_spacing can be refined only with a depth_um."),
        (("angle", "tilt"), several_angles, "angle and tilt can be refined only with several angles."),
        (("background_map",), "background" not in quantities, "Only one background can be refined."),
    ):
        refused = [name for name in quantities if name in names]
        if refused and not possible:
            raise PlanError(
                rule,
                got=f"{', '.join(refused)} for {angles} in the {geometry.detector.regime.replace('_', ' ')}.",
                remedy=f"remove {', '.join(refused)} from refine.quantities.",
            )


def schedule_notes(recipe: Recipe, settings: FitSettings) -> list[str]:
    """Check the probe's schedule, and return a note for schedules that start after the last epoch."""
    refined: list[Scheduled] = [*recipe.refine.quantities]
    if settings.probe_step > 0:
        refined.append("probe")
    elif "probe" in recipe.refine.schedules.given:
        raise PlanError(
            "A schedule applies only to a quantity that is refined.",
            got="a schedule for the probe, which this technique does not refine by default.",
            remedy="set refine_probe, or remove refine.schedules.probe.",
        )
    if recipe.probe_variations:
        refined.append("probe_variations")
    late = [name for name in refined if settings.refinement.schedule_of(name).from_epoch > settings.epochs]
    return [f"{', '.join(late)} will not be refined: first epoch after the last, {settings.epochs}"] if late else []


def check_illumination(recipe: Recipe, scan: Scan) -> None:
    """Raise ``PlanError`` if the recipe's illumination needs flats or holograms that the scan does not have."""
    geometry = scan.geometry
    near_field = geometry.detector.regime == "near_field" and not technique_of(geometry).overlapping
    if recipe.illumination == "joint" and not near_field:
        raise PlanError(
            "A joint illumination needs full-field holograms; ptychography refines its probe instead.",
            got=f"{geometry.technique} in the {geometry.detector.regime.replace('_', ' ')}.",
            remedy="leave illumination out.",
        )
    if recipe.illumination is not None and not scan.frames.flat_rows:
        raise PlanError(
            "The illumination option needs flats.",
            got=f"illumination {recipe.illumination} for a scan without flats.",
            remedy="record flats, or leave illumination out; refine_probe refines a plane wave.",
        )
    if recipe.illumination == "joint" and (recipe.coarse_levels or recipe.first_propagation):
        raise PlanError(
            "A joint illumination excludes earlier fits to coarser frames or with another propagation.",
            got=f"coarse_levels {recipe.coarse_levels}, first_propagation {recipe.first_propagation}.",
            remedy="leave coarse_levels and first_propagation out.",
        )
    if recipe.illumination == "joint" and np.ptp(geometry.magnification) > 1e-3:
        raise PlanError(
            "A joint illumination needs holograms of one magnification.",
            got=f"magnifications {geometry.magnification.min():g} to {geometry.magnification.max():g}.",
            remedy="leave illumination out.",
        )


def check_detector_propagation(recipe: Recipe, geometry: ScanGeometry) -> None:
    """Raise ``PlanError`` for the angular spectrum in a cone beam, because the scaling theorem is paraxial."""
    if recipe.way_to_detector == "angular_spectrum" and (geometry.magnification != 1).any():
        raise PlanError(
            "Holograms of a cone beam need the Fresnel propagator, which the scaling theorem assumes.",
            got=f"way_to_detector angular_spectrum, magnifications {geometry.magnification.min():g} to "
            f"{geometry.magnification.max():g}.",
            remedy="leave way_to_detector out.",
        )


def check_depth(recipe: Recipe, grid: VolumeGrid, slices: int, several_angles: bool) -> None:
    """Raise ``PlanError`` if slices, depth or support do not suit the grid or the number of angles."""
    if slices > grid.shape[0]:
        raise PlanError(
            "A slice contains at least one plane of the volume.",
            got=f"{slices} slices for {grid.shape[0]} planes.",
            remedy="leave slices out, or use fewer.",
        )
    if not several_angles and recipe.depth_um is None and slices > 1:
        raise PlanError(
            "Several slices at one angle need a depth, because a single angle does not determine the thickness.",
            got=f"{slices} slices without depth_um.",
            remedy="set depth_um, or leave slices out.",
        )
    if recipe.support == "cylinder" and not several_angles:
        raise PlanError(
            "The cylinder support needs several angles.",
            got="support cylinder for a scan of one angle.",
            remedy="leave support out.",
        )


def check_fitted(recipe: Recipe, views: int, fitted: int) -> None:
    """Raise ``PlanError`` if too few frames remain to be fitted."""
    if not fitted:
        raise PlanError(
            "Some frames must remain to be fitted.",
            got=f"held_back_every {recipe.held_back_every}, which holds back all {views}.",
            remedy="hold back at most every second frame, or none with 0.",
        )
    if recipe.shell_correlation and fitted < 2:
        raise PlanError(
            "A shell correlation needs at least two views to fit, one for each half.",
            got=f"{fitted} view to fit.",
            remedy="leave shell_correlation out.",
        )


def check_slabs(plan: Plan) -> None:
    """Raise ``PlanError`` if the number of slabs does not suit the volume, or a tilt that is refined or taken over."""
    check_rows(plan.grid.shape[1], plan.slabs)
    if plan.slabs > 1 and "tilt" in plan.fit.refinement.quantities:
        raise PlanError(
            "A tilted rotation axis couples the rows of a volume, which therefore cannot be divided into slabs.",
            got=f"{plan.slabs} slabs, and tilt in refine.quantities or in the former result.",
            remedy="use a mesh with one slab, such as 2x1, or leave tilt out.",
        )
