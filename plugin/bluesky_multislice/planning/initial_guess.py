"""Initial guess for holography of several angles: thin-sample volume, alignment, search for the rotation axis."""

from collections.abc import Callable

import numpy as np

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Scan, ScanGeometry, find_axis_near_edge
from bluesky_multislice.models import technique_of
from bluesky_multislice.recipe import Recipe, Start

_LEAST_AXIS_ANGLES = 40
"""Evenly spaced angles for which sharpness alone finds the axis to 0.15 pixels; with 16 it was off by 3 pixels."""


_ALIGNED_ANGLES = range(16, 3001)
"""Numbers of angles that are aligned: fewer do not determine a reprojection, more need over 1 GB of memory for it."""


def start_of(recipe: Recipe, geometry: ScanGeometry) -> Start:
    """Return the kind of initial volume."""
    possible = _in_line(geometry)
    if recipe.start == "thin_sample" and not possible:
        raise _only_holography("start thin_sample", geometry)
    return recipe.start or ("thin_sample" if possible else "empty")


def finds_axis(recipe: Recipe, geometry: ScanGeometry) -> bool:
    """Return whether the rotation axis is searched."""
    return _searches("find_axis", recipe.find_axis, geometry, angles_determine_axis)


def axis_near_edge(recipe: Recipe, scan: Scan) -> tuple[float, list[str]]:
    """Return the rotation axis of a half acquisition, in pixels of the frames from the scan's axis, and a note.

    The grid depends on it, so some frames are read. 0 if the axis is within the reach of the later search, is given, or
    cannot be told.
    """
    found = None
    if recipe.find_axis is not False and _in_line(scan.geometry):
        found = find_axis_near_edge(scan, recipe.saturated)
    if found is None:
        return 0.0, []
    return found, [
        f"half acquisition: the rotation axis was found {found * recipe.frames.binning:+.2f} stored pixels along x "
        "from the middle of the detector, by comparing frames of opposite angles; set scan.axis_pixels to give another"
    ]


def aligns(recipe: Recipe, geometry: ScanGeometry) -> bool:
    """Return whether shifts of the frames from angle to angle are searched."""
    return _searches("align", recipe.align, geometry, lambda scan: len(np.unique(scan.angle_rad)) in _ALIGNED_ANGLES)


def level_notes(scan: Scan) -> list[str]:
    """Return a note if nothing tells the level of the beam without the sample."""
    if technique_of(scan.geometry).overlapping or scan.probe is not None or scan.frames.flat_rows:
        return []
    return [
        "no flats: the level of the beam is taken from the border of the frames, so that absorption by the same factor "
        "over the whole field cannot be seen"
    ]


def angles_determine_axis(geometry: ScanGeometry) -> bool:
    """Return whether the angles cover a range of π densely enough to find the rotation axis by sharpness alone."""
    folded = np.unique(geometry.angle_rad % np.pi)
    largest_gap = np.diff(folded, append=folded[0] + np.pi).max()
    return bool(largest_gap < 1.01 * np.pi / _LEAST_AXIS_ANGLES)


def _in_line(geometry: ScanGeometry) -> bool:
    """Return whether the views are in-line holograms of several angles, without optics behind the sample."""
    technique = technique_of(geometry)
    free = technique.optics is None and not technique.overlapping and not technique.imaged
    return free and geometry.detector.regime == "near_field" and len(np.unique(geometry.angle_rad)) > 1


def _searches(option: str, asked: bool | None, geometry: ScanGeometry, suited: Callable[[ScanGeometry], bool]) -> bool:
    """Return the option's value; if the recipe does not give it, whether the scan is suited."""
    if asked is None:
        return _in_line(geometry) and suited(geometry)
    if asked and not _in_line(geometry):
        raise _only_holography(option, geometry)
    return asked


def _only_holography(option: str, geometry: ScanGeometry) -> PlanError:
    return PlanError(
        "A thin-sample start, an alignment and an axis search need near-field holograms of several angles.",
        got=f"{option} for {geometry.technique} of {len(np.unique(geometry.angle_rad))} angle(s) in the "
        f"{geometry.detector.regime.replace('_', ' ')}.",
        remedy="leave it out of the recipe.",
    )
