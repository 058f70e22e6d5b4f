"""What a recipe may not ask of a scan."""

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan, ScanGeometry, VolumeGrid
from bluesky_multislice.models import technique_of
from bluesky_multislice.parallel import check_rows
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe, Scheduled
from bluesky_multislice.solvers import FitSettings


def check_refinement(recipe: Recipe, geometry: ScanGeometry, several_angles: bool) -> None:
    """Refuse what the frames of a scan do not depend on."""
    far_field = geometry.detector.regime == "far_field"
    one_distance = far_field or len(np.unique(geometry.effective_distance_m)) == 1
    senseless = {
        "distance_shift": one_distance,
        "distance_magnification": one_distance,
        "distance_rotation": one_distance,
        "slice_spacing": several_angles or recipe.depth_um is None,
        "angle": not several_angles,
        "tilt": not several_angles,
        "background_map": "background" in recipe.refine.quantities,
    }
    refused = [name for name in recipe.refine.quantities if senseless.get(name, False)]
    if refused:
        raise PlanError(
            "What a distance's frames do against the first one's is refined with several distances in the near "
            "field, slice_spacing at one angle with a depth_um, angle and tilt at several angles, and one "
            "background.",
            got=f"{', '.join(refused)} for {'several angles' if several_angles else 'one angle'} in the "
            f"{geometry.detector.regime.replace('_', ' ')}.",
            remedy="leave them out of refine.quantities.",
        )


def schedule_notes(recipe: Recipe, settings: FitSettings) -> list[str]:
    """Refuse a schedule of a probe that is not refined, and return what will not move because its epoch never comes."""
    refined: list[Scheduled] = [*recipe.refine.quantities]
    if settings.probe_step > 0:
        refined.append("probe")
    elif "probe" in recipe.refine.schedules.given:
        raise PlanError(
            "A schedule is for what is refined.",
            got="one of the probe, which this technique does not refine unless a recipe says so.",
            remedy="ask for refine_probe, or leave refine.schedules.probe out.",
        )
    if recipe.probe_variations:
        refined.append("probe_variations")
    late = [name for name in refined if settings.refinement.schedule_of(name).from_epoch > settings.epochs]
    return [f"{', '.join(late)} will not move: the first epoch of it comes after {settings.epochs}"] if late else []


def check_illumination(recipe: Recipe, scan: Scan) -> None:
    """Refuse what needs flats without them, and a joint illumination where frames do not share one on the sample."""
    geometry = scan.geometry
    if recipe.illumination is not None and not scan.frames.flat_rows:
        raise PlanError(
            "An illumination is known from flats.",
            got=f"illumination {recipe.illumination} for a scan without any.",
            remedy="take flats, or leave illumination out; refine_probe refines a plane wave.",
        )
    if recipe.illumination == "joint" and (recipe.coarse_levels or recipe.first_propagation):
        raise PlanError(
            "An illumination is fitted to flats of the frames' own pixels.",
            got="earlier fits, to coarser frames or by another propagation.",
            remedy="leave coarse_levels and first_propagation out.",
        )
    near = geometry.detector.regime == "near_field" and not technique_of(geometry).overlapping
    if recipe.illumination == "joint" and not (near and np.ptp(geometry.magnification) <= 1e-3):
        raise PlanError(
            "The illumination is fitted from flats for holograms of one magnification; patterns refine their probe.",
            got=f"{geometry.technique} in the {geometry.detector.regime.replace('_', ' ')}, magnifications "
            f"{geometry.magnification.min():g} to {geometry.magnification.max():g}.",
            remedy="leave illumination out.",
        )


def check_detector_propagation(recipe: Recipe, geometry: ScanGeometry) -> None:
    """Refuse the exact way where the scaling theorem, which is one of Fresnel's kernel, stands for a cone beam."""
    if recipe.way_to_detector == "angular_spectrum" and (geometry.magnification != 1).any():
        raise PlanError(
            "A cone beam's holograms are those of a parallel beam by Fresnel's kernel alone.",
            got=f"way_to_detector angular_spectrum, magnifications {geometry.magnification.min():g} to "
            f"{geometry.magnification.max():g}.",
            remedy="leave way_to_detector out.",
        )


def check_depth(recipe: Recipe, grid: VolumeGrid, slices: int, several_angles: bool) -> None:
    """Refuse slices, a depth or a support that the grid or the number of angles does not allow."""
    if slices > grid.shape[0]:
        raise PlanError(
            "A slice holds at least one plane of the volume.",
            got=f"{slices} slices for {grid.shape[0]} planes.",
            remedy="leave slices out, or ask for fewer.",
        )
    if not several_angles and recipe.depth_um is None and slices > 1:
        raise PlanError(
            "One angle does not tell how thick a sample is, and slices need to know.",
            got=f"{slices} slices without a depth.",
            remedy="give depth_um, or leave slices out.",
        )
    if recipe.support == "cylinder" and not several_angles:
        raise PlanError(
            "The cylinder that every angle sees needs several angles.",
            got="support cylinder for a scan of one angle.",
            remedy="leave support out.",
        )


def check_fitted(recipe: Recipe, views: int, fitted: int) -> None:
    """Refuse to hold back so many frames that too few are left."""
    if not fitted:
        raise PlanError(
            "Some frames must be left to fit.",
            got=f"held_back_every {recipe.held_back_every}, which holds back all {views}.",
            remedy="hold back every second frame at most, or none with 0.",
        )
    if recipe.shell_correlation and fitted < 2:
        raise PlanError(
            "Two halves of the views are needed to correlate them.",
            got=f"{fitted} view to fit.",
            remedy="leave shell_correlation out.",
        )


def check_slabs(recipe: Recipe, plan: Plan) -> None:
    """Refuse slabs that the volume's rows, or what is refined, do not allow."""
    check_rows(plan.grid.shape[1], plan.slabs)
    if plan.slabs > 1 and "tilt" in recipe.refine.quantities:
        raise PlanError(
            "A tilted rotation axis couples the rows of a volume, so that it cannot be cut into slabs.",
            got=f"{plan.slabs} slabs, and tilt among what is refined.",
            remedy="ask for a mesh with one slab, such as 2x1, or leave tilt out.",
        )
