"""What a former result gives the initial guess, and what it cannot give because scan or recipe differ."""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import (
    REFINED_QUANTITIES,
    FormerResult,
    Quantity,
    Scan,
    ScanGeometry,
    Scheduled,
    VolumeGrid,
)
from bluesky_multislice.models import technique_of
from bluesky_multislice.planning.initial_guess import aligns, finds_axis, start_of
from bluesky_multislice.planning.plan_parts import FitPart
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import FitSettings, Schedule

_LARGEST_ENERGY_RATIO = 1.2
"""Largest ratio of energies for which δ ∝ E⁻² and β ∝ E⁻⁴ give a useful initial guess, away from absorption edges."""

_SAME_ENERGY = 1e-3
"""Relative difference of energies up to which the probe is the same."""

_SAME_ANGLE_RAD = 0.01
"""Largest difference of the angles of two scans of one angle."""

_HELD = 10**9
"""First epoch of the refinement of a quantity that keeps its former value."""

_IN_POSITIONS = ("positions", "axis_shift")
"""Quantities that the result's positions contain."""

_IN_PROBE = ("defocus",)
"""Quantities that the result's probe contains."""

_VARIATIONS = ("probe_variations", "variation_of_view")


def with_former_result(fit: FitPart, recipe: Recipe, scan: Scan, grid: VolumeGrid) -> tuple[FitPart, list[str]]:
    """Return the fit as it starts from the scan's former result, and notes on what it takes over and leaves out.

    Refined quantities that the recipe does not refine keep their former values. Alignment and axis search are switched
    off if the former positions are taken over and the recipe does not ask for them.

    Args:
        fit: the fit without a former result.
        recipe: the recipe.
        scan: the scan.
        grid: grid of the volume.

    Raises:
        PlanError: the recipe names a former result that was not loaded, or it belongs to another technique, a very
            different energy or another place.
    """
    former, geometry = scan.former, scan.geometry
    if former is None:
        if recipe.start_from is not None:
            raise PlanError(
                "A reconstruction that starts from a former result needs that result.",
                got=f"start_from {recipe.start_from}, and no loaded result.",
                remedy="set Scan.former to the result of files.read_former, or leave start_from out.",
            )
        return fit, []
    _check(former, geometry, grid)
    same_views = former.has_views_of(geometry)
    names = _names(former)
    found = _left_out(former, recipe, scan, fit, same_views=same_views)
    left_out = {name: reason for name, reason in found if name in names}
    taken = tuple(name for name in names if name not in left_out)
    aligned = "positions" in taken
    notes = [f"starts from {former.name}: {', '.join(taken)}", *_reasons(left_out)]
    notes += _volume_notes(former, geometry, grid) + _needless(fit, recipe, geometry, taken)
    return replace(
        fit,
        fit=_with_held(fit.fit, taken),
        from_former=taken,
        align=fit.align and (bool(recipe.align) or not aligned),
        find_axis=fit.find_axis and (bool(recipe.find_axis) or not aligned),
    ), notes


def _names(former: FormerResult) -> list[str]:
    """Return what a result could give."""
    contained = (*_IN_POSITIONS, *_IN_PROBE)
    quantities = [name for name in REFINED_QUANTITIES if name in former.refined and name not in contained]
    variations = all(name in former.refined for name in _VARIATIONS)
    return ["volume", "probe", "positions", *quantities, *(["probe_variations"] if variations else [])]


def _left_out(
    former: FormerResult, recipe: Recipe, scan: Scan, fit: FitPart, *, same_views: bool
) -> Iterator[tuple[str, str]]:
    """Yield what a result cannot give, with the reason."""
    if reason := _without_probe(former, recipe, scan, fit, same_views=same_views):
        yield "probe", reason
    other_views = "the views differ" if former.views is not None else "the result does not list its views"
    if not same_views:
        yield "positions", other_views
    for name in REFINED_QUANTITIES:
        if reason := _without_quantity(name, former, recipe, scan.geometry):
            yield name, reason
        elif not same_views:
            yield name, other_views
    if not fit.fit.probe_variations:
        yield "probe_variations", "the recipe has none"
    elif not same_views:
        yield "probe_variations", other_views
    elif reason := _without_probe(former, recipe, scan, fit, same_views=same_views):
        yield "probe_variations", reason


def _without_probe(former: FormerResult, recipe: Recipe, scan: Scan, fit: FitPart, *, same_views: bool) -> str:
    """Return why the probe is not taken over; empty if it is."""
    geometry = scan.geometry
    if former.regime and former.regime != geometry.detector.regime:
        return f"the result is of the {former.regime.replace('_', ' ')}"
    if abs(former.wavelength_m / geometry.beam.wavelength_m - 1) > _SAME_ENERGY:
        return "the energies differ"
    if _has_other_window(former, recipe):
        return "frames.region or frames.centre differ"
    if former.joint_illumination != (recipe.illumination == "joint"):
        return "only one of the reconstructions fits the illumination with flats"
    if not (same_views or technique_of(geometry).overlapping or fit.fit.probe_step > 0):
        return "the scan's own frames give the level of its beam"
    return ""


def _without_quantity(name: Quantity, former: FormerResult, recipe: Recipe, geometry: ScanGeometry) -> str:
    """Return why a refined quantity is not taken over from a result of the same views; empty if it is."""
    if name not in former.refined:
        return ""
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    backgrounds = {"background", "background_map"}
    if name in backgrounds and backgrounds & set(recipe.refine.quantities) - {name}:
        return "the recipe refines another background"
    if name == "slice_spacing" and (several_angles or recipe.depth_um is None):
        return "it needs one angle and a depth_um"
    if name in ("angle", "tilt") and not several_angles:
        return "it needs several angles"
    if name == "background_map" and _has_other_window(former, recipe):
        return "frames.region or frames.centre differ"
    size = np.size(former.refined[name])
    expected = _sizes(name, geometry)
    return f"{size} values for {expected}" if expected is not None and size != expected else ""


def _has_other_window(former: FormerResult, recipe: Recipe) -> bool:
    """Return whether the former frames may show another part of the detector."""
    return any(former.frames.get(name) != getattr(recipe.frames, name) for name in ("region", "centre"))


def _sizes(name: Quantity, geometry: ScanGeometry) -> int | None:
    """Return the number of a quantity's values in this scan; None: any."""
    distances = np.stack([geometry.effective_distance_m, geometry.magnification], 1)
    of_each = 2 if name in ("axis_shift", "positions", "distance_shift") else 1
    return {
        "view": of_each * geometry.views,
        "angle": of_each * len(np.unique(geometry.angle_rad)),
        "distance": of_each * len(np.unique(distances, axis=0)),
        "pixel": int(np.prod(geometry.detector.shape)),
        "scan": None,
    }[REFINED_QUANTITIES[name].per]


def _with_held(settings: FitSettings, taken: tuple[str, ...]) -> FitSettings:
    """Return settings in which quantities that are taken over but not refined keep their values."""
    refinement = settings.refinement
    held: list[Quantity] = [
        name for name in get_args(Quantity) if name in taken and name not in (*refinement.quantities, "positions")
    ]
    schedules: dict[Scheduled, Schedule] = dict(refinement.schedules)
    schedules |= {name: Schedule(_HELD, 1.0, REFINED_QUANTITIES[name].bound) for name in held}
    refinement = replace(refinement, quantities=(*refinement.quantities, *held), schedules=schedules)
    return replace(settings, refinement=refinement)


def _reasons(left_out: dict[str, str]) -> list[str]:
    """Return a note on what is left out, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in left_out.items():
        by_reason.setdefault(reason, []).append(name)
    return [f"not taken over from the former result: {', '.join(names)}: {why}" for why, names in by_reason.items()]


def _volume_notes(former: FormerResult, geometry: ScanGeometry, grid: VolumeGrid) -> list[str]:
    """Return notes on how the volume is converted."""
    notes, ratio = [], geometry.beam.wavelength_m / former.wavelength_m
    if abs(ratio - 1) > _SAME_ENERGY:
        notes.append(
            f"δ and β of the former result are multiplied by {ratio**2:.4g} and {ratio**4:.4g}, because δ ∝ E⁻² and "
            "β ∝ E⁻⁴; this does not hold near an absorption edge"
        )
    if len(np.unique(geometry.angle_rad)) == 1 and former.grid.thickness_m > (1 + 1e-6) * grid.thickness_m:
        notes.append(
            f"the former volume is compressed from {former.grid.thickness_m * 1e6:.4g} to "
            f"{grid.thickness_m * 1e6:.4g} µm along the beam; its projected phase is kept"
        )
    return notes


def _needless(fit: FitPart, recipe: Recipe, geometry: ScanGeometry, taken: tuple[str, ...]) -> list[str]:
    """Return a note on the searches that the former result makes needless."""
    skipped = ["thin-sample initial volume"] if start_of(recipe, geometry) == "thin_sample" else []
    skipped += ["preliminary fits"] if recipe.coarse_levels or recipe.first_propagation else []
    if "probe" in taken and technique_of(geometry).overlapping:
        skipped.append("probe and number of its modes")
    if "positions" in taken:
        skipped += ["alignment"] if aligns(recipe, geometry) and not recipe.align else []
        skipped += ["rotation axis"] if finds_axis(recipe, geometry) and not recipe.find_axis else []
    return [f"not searched, because the former result gives them: {', '.join(skipped)}"] if skipped else []


def _check(former: FormerResult, geometry: ScanGeometry, grid: VolumeGrid) -> None:
    """Raise ``PlanError`` if a result says nothing about the scan's object."""
    if former.technique and former.technique != geometry.technique:
        raise PlanError(
            "A reconstruction can start only from a result of its own technique.",
            got=f"a result of {former.technique}, {former.name}, for a scan of {geometry.technique}.",
            remedy="name another result, or leave start_from out.",
        )
    _check_angles(former, geometry)
    ratio = former.wavelength_m / geometry.beam.wavelength_m
    if not 1 / _LARGEST_ENERGY_RATIO <= ratio <= _LARGEST_ENERGY_RATIO:
        raise PlanError(
            "δ and β depend on the energy; they are converted only between energies that differ by at most "
            f"{_LARGEST_ENERGY_RATIO - 1:.0%}.",
            got=f"a wavelength of {former.wavelength_m:g} m in {former.name}, {geometry.beam.wavelength_m:g} m in the "
            "scan.",
            remedy="name a result of a similar energy, or leave start_from out.",
        )
    for axis, name in ((1, "y"), (2, "x")):
        reach_m = sum(each.shape[axis] * each.voxel_size_m[axis] / 2 for each in (former.grid, grid))
        apart_m = abs(former.grid.center_m[axis] - grid.center_m[axis])
        if apart_m >= reach_m:
            raise PlanError(
                "A former result must contain a part of the volume.",
                got=f"{former.name}, whose centre along {name} is {apart_m:g} m away.",
                remedy="name a result of the same part of the sample, or leave start_from out.",
            )


def _check_angles(former: FormerResult, geometry: ScanGeometry) -> None:
    """Raise ``PlanError`` if only one of the volumes was seen from several angles, or both from different ones."""
    if former.views is None:
        return
    angles_rad = [np.unique(each) for each in (former.views[:, 0], geometry.angle_rad)]
    several = [len(each) > 1 for each in angles_rad]
    if several[0] != several[1] or (not any(several) and abs(angles_rad[0][0] - angles_rad[1][0]) > _SAME_ANGLE_RAD):
        one, other = (
            f"{len(each)} angles" if len(each) > 1 else f"one angle of {np.degrees(each[0]):.4g}°"
            for each in angles_rad
        )
        raise PlanError(
            "The volume of one angle is what that angle sees; it starts only a reconstruction of the same angle.",
            got=f"{one} in {former.name}, {other} in the scan.",
            remedy="name a result of the same kind of scan, or leave start_from out.",
        )
