"""Division of frames among the ranks of an angle group: a tile of every frame, or whole frames of some views."""

import math
from dataclasses import replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models import FrameTiles, even_tiles, technique_of, tiles_are_valid
from bluesky_multislice.optics import halo_pixels
from bluesky_multislice.planning.cost import rows_from_other_slabs
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe

_FASTER = 0.75
"""Ratio of times, tiles to whole frames, below which tiles are used although memory does not require them.

Tiles reproduce the result of a single rank only within the accuracy of their halos.
"""

_SPREAD = 4.0
"""Halo for the detector's point spread, in σ."""


def tiles_of_frames(
    plan: Plan, geometry: ScanGeometry, recipe: Recipe, *, needed: bool
) -> tuple[FrameTiles | None, str]:
    """Return the tile of every frame that each rank of an angle group computes, and a note; None for whole frames.

    Tiles require full-field holograms or images of one magnification. They are faster if a batch has too few views at
    one angle for all ranks, and if a tile with halos is much lower than the window. They exclude models that need whole
    frames: magnified or rotated frames, the weights of the intensity fidelity, flats as data, and finite differences,
    whose halos are unknown. Tiles whose halos exchange more than whole frames are used only if memory requires them.

    Args:
        plan: plan with its slabs.
        geometry: geometry of the scan, sampled as in the plan.
        recipe: the recipe.
        needed: whether tiles may be slower, because whole frames do not fit into memory.
    """
    full_field = tiles_are_valid(geometry) and not technique_of(geometry).overlapping
    propagations = {plan.propagation, recipe.first_propagation or plan.propagation}
    whole = {"distance_magnification", "distance_rotation"} & set(plan.fit.refinement.quantities)
    if plan.slabs == 1 or not full_field or whole or recipe.fidelity == "intensity" or plan.joint_illumination:
        return None, ""
    if any(name.startswith("finite-difference") for name in propagations):
        return None, ""
    rows, (window, _) = geometry.detector.shape[0] // plan.oversampling, window_of(geometry, plan.margin)
    tiles = even_tiles(rows, plan.slabs, _halo(plan, geometry, recipe.accuracy), 2**recipe.coarse_levels)
    if tiles is None:
        return None, ""
    highest = max(last - first for first, last in replace(plan, frame_tiles=tiles).windows(window))
    views_per_angle = int(np.unique(geometry.angle_rad, return_counts=True)[1].max())
    views = min(plan.fit.batch_views, math.ceil(views_per_angle / plan.lanes))
    faster = views * highest < _FASTER * math.ceil(views / plan.slabs) * window
    tiled = replace(plan, frame_tiles=tiles)
    halos, strips = _rows_of_halos(tiled, window), round(min(window, plan.grid.shape[1]) * (1 - 1 / plan.slabs))
    if (needed and highest < window) or (faster and (needed or halos <= strips)):
        rows_of_tile = max(last - first for first, last in tiles.rows)
        return tiles, (
            f"every rank of an angle group computes {rows_of_tile} rows of each frame, and {tiles.halo} more on either "
            f"side: the ranks exchange {halos} rows per view, instead of {strips} for whole frames"
        )
    if faster:
        return None, (
            f"whole frames: the ranks exchange {strips} rows per frame; tiles on {plan.slabs} slabs, with {tiles.halo} "
            f"more rows on either side, would need {halos}"
        )
    return None, ""


def _rows_of_halos(plan: Plan, window: int) -> int:
    """Return the rows per view that are sent to the tiles of all ranks of an angle group.

    The width of halos is independent of the number of slabs, so halos of many low tiles can exceed a whole frame. See
    ``rows_from_other_slabs``.

    Args:
        plan: plan with tiles of frames.
        window: height of a window in rows.
    """
    first = np.array([(plan.grid.shape[1] - window) // 2])
    return rows_from_other_slabs(plan, None, np.zeros(1, np.intp), first, plan.windows(window))


def _halo(plan: Plan, geometry: ScanGeometry, accuracy: float) -> int:
    """Return the halo of a tile in pixels, for the propagation from entrance to detector and the point spread.

    The literature's bound 4√(λL)/Δx is larger for short distances. It is used for the gradient, which has a larger
    error than the intensity in dark pixels.
    """
    lengths_m = np.abs(geometry.effective_distance_m - plan.grid.thickness_m / 2) + plan.grid.thickness_m
    optics = {"wavelength_m": geometry.beam.wavelength_m, "pixel_size_m": geometry.object_pixel_m[0]}
    fresnel = optics["wavelength_m"] * float(lengths_m.max()) / optics["pixel_size_m"] ** 2
    spread = max(halo_pixels(accuracy, distance_m=float(lengths_m.max()), **optics), 4 * math.sqrt(fresnel))
    source = float(np.max(geometry.source_blur_m)) / geometry.detector.pixel_size_m[0]
    return math.ceil(spread + _SPREAD * math.hypot(source, plan.point_spread_pixels * plan.oversampling))
