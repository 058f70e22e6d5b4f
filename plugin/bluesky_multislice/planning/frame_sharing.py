"""Whether the ranks of an angle compute a tile of every frame each, or whole frames of some views each."""

import math
from dataclasses import replace

import numpy as np

from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.models import FrameTiles, even_tiles, technique_of, tiles_fit
from bluesky_multislice.optics import halo_pixels
from bluesky_multislice.planning.cost import rows_from_other_slabs
from bluesky_multislice.planning.grid import window_of
from bluesky_multislice.planning.plan import Plan
from bluesky_multislice.recipe import Recipe

_FASTER = 0.75
"""Time of tiles over that of whole frames from which on they are taken where memory does not ask for them: what one
rank fits they fit as far as the accuracy goes only."""

_SPREAD = 4.0
"""σ of the detector's point spread that a halo has besides."""


def tiles_of_frames(
    plan: Plan, geometry: ScanGeometry, recipe: Recipe, *, needed: bool
) -> tuple[FrameTiles | None, str]:
    """Return the tile of every frame that each rank of an angle computes, None for whole frames of some; and why.

    Tiles are for full-field holograms and images of one magnification. They are clearly faster where the views of a
    batch at one angle do not keep all ranks busy and a tile with its halos is much lower than the window. What is not
    the sum of its parts over a frame needs whole ones: frames that are magnified or turned, the weights of the
    intensity fidelity, and flats that are data. Halos of finite differences are not known. Tiles whose halos send more
    than whole frames would are taken only where memory asks for them.

    Args:
        plan: with its slabs, and otherwise as it is to be.
        geometry: of the scan, as finely sampled as the plan says.
        recipe: what a person chose.
        needed: whether tiles may take more time, for whole frames do not fit into memory.
    """
    full_field = tiles_fit(geometry) and not technique_of(geometry).overlapping
    propagations = {plan.propagation, recipe.first_propagation or plan.propagation}
    whole = {"distance_magnification", "distance_rotation"} & set(recipe.refine.quantities)
    if plan.slabs == 1 or not full_field or whole or recipe.fidelity == "intensity" or plan.joint_illumination:
        return None, ""
    if any(name.startswith("finite-difference") for name in propagations):
        return None, ""
    rows, (window, _) = geometry.detector.shape[0] // plan.oversampling, window_of(geometry, plan.margin)
    tiles = even_tiles(rows, plan.slabs, _halo(plan, geometry, recipe.accuracy), 2**recipe.coarse_levels)
    if tiles is None:
        return None, ""
    highest = max(last - first for first, last in replace(plan, frame_tiles=tiles).windows(window))
    at_an_angle = int(np.unique(geometry.angle_rad, return_counts=True)[1].max())
    views = min(plan.fit.batch_views, math.ceil(at_an_angle / plan.lanes))
    faster = views * highest < _FASTER * math.ceil(views / plan.slabs) * window
    tiled = replace(plan, frame_tiles=tiles)
    halos, strips = _rows_of_halos(tiled, window), round(min(window, plan.grid.shape[1]) * (1 - 1 / plan.slabs))
    if (needed and highest < window) or (faster and (needed or halos <= strips)):
        rows_of_tile = max(last - first for first, last in tiles.rows)
        return tiles, (
            f"every rank of an angle computes {rows_of_tile} rows of each frame, with {tiles.halo} more on either "
            f"side: {halos} rows of a view travel, of a whole frame {strips} would"
        )
    if faster:
        return None, (
            f"whole frames: {strips} rows of each travel; tiles on {plan.slabs} slabs, with {tiles.halo} rows more on "
            f"either side, would take {halos}"
        )
    return None, ""


def _rows_of_halos(plan: Plan, window: int) -> int:
    """Return the rows of a view that travel to the tiles of all ranks of an angle; see ``rows_from_other_slabs``.

    Halos are as wide however many slabs there are, so that those of many low tiles add up to more than a whole frame.

    Args:
        plan: with tiles of frames.
        window: rows of a window.
    """
    first = np.array([(plan.grid.shape[1] - window) // 2])
    return rows_from_other_slabs(plan, None, np.zeros(1, np.intp), first, plan.windows(window))


def _halo(plan: Plan, geometry: ScanGeometry, accuracy: float) -> int:
    """Return the pixels around a tile that cover the way from the entrance to the detector, and its point spread.

    The bound 4√(λL)/Δx of the literature is the larger one on short ways, and kept for the gradient: that is farther
    off than the intensity where pixels are dark.
    """
    ways_m = np.abs(geometry.effective_distance_m - plan.grid.thickness_m / 2) + plan.grid.thickness_m
    optics = {"wavelength_m": geometry.beam.wavelength_m, "pixel_size_m": geometry.object_pixel_m[0]}
    fresnel = optics["wavelength_m"] * float(ways_m.max()) / optics["pixel_size_m"] ** 2
    walk = max(halo_pixels(accuracy, distance_m=float(ways_m.max()), **optics), 4 * math.sqrt(fresnel))
    source = float(np.max(geometry.source_blur_m)) / geometry.detector.pixel_size_m[0]
    return math.ceil(walk + _SPREAD * math.hypot(source, plan.point_spread_pixels * plan.oversampling))
