"""Grid, margin, slices and tiles, from sampling rules and the recipe's accuracy."""

import math

import numpy as np
from scipy.fft import next_fast_len

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import ScanGeometry, VolumeGrid, depth_of_field_m
from bluesky_multislice.models import technique_of
from bluesky_multislice.optics import halo_pixels, thickest_slice_m
from bluesky_multislice.recipe import Recipe

_OUTGOING_MARGIN = 16
"""Pixels of the absorbing margin on each side of a near-field window."""


_LEAST_TILE = 256
"""Smallest tile, pixels per side; a tile is also at least four halos wide, so that halos cost no more than tiles."""


def window_margin(
    geometry: ScanGeometry, accuracy: float, *, least: int = 0, most: float = 0.25, multiple_of: int = 1
) -> int:
    """Return the margin around a near-field frame that prevents wrap-around, in pixels; 0 in the far field.

    A wave of the highest sampled frequency 1/(2·pixel) is displaced laterally by λ·distance/(2·pixel). ``halo_pixels``
    gives the part of it that an accuracy needs. The margin is increased to a window size with a fast FFT.

    Args:
        geometry: the scan.
        accuracy: relative error of the scattered wave.
        least: smallest margin on each side, in pixels.
        most: largest margin on each side, relative to the frame. 0.25 suffices for a fit, because little intensity is
            scattered further.
        multiple_of: the margin is a multiple of this number.
    """
    if geometry.detector.regime == "far_field":
        return 0
    pixel, frame = min(geometry.object_pixel_m), max(geometry.field_shape)
    wavelength, distance = geometry.beam.wavelength_m, float(np.abs(geometry.effective_distance_m).max())
    displacement = wavelength * distance / (2 * pixel) / pixel
    halo = halo_pixels(accuracy, wavelength_m=wavelength, distance_m=distance, pixel_size_m=pixel)
    margin = max(least, math.ceil(min(displacement, halo, most * frame)))
    while margin % multiple_of or any(next_fast_len(n + 2 * margin) != n + 2 * margin for n in geometry.field_shape):
        margin += 1
    return margin


def margin_from_recipe(recipe: Recipe, geometry: ScanGeometry) -> int:
    """Return the margin around each frame for a recipe, in pixels."""
    least = _OUTGOING_MARGIN if recipe.edges == "outgoing" else 0
    return window_margin(geometry, recipe.accuracy, least=least, multiple_of=2**recipe.coarse_levels)


def window_of(geometry: ScanGeometry, margin: int) -> tuple[int, int]:
    """Return the size (y, x) of a frame with its margins, in pixels."""
    ny, nx = geometry.field_shape
    return ny + 2 * margin, nx + 2 * margin


def tiles_of(
    geometry: ScanGeometry, grid: VolumeGrid, window: tuple[int, int], accuracy: float
) -> tuple[tuple[int, int], int]:
    """Return the number of tiles (y, x) of a window of this size in pixels, and their halo."""
    halo = halo_pixels(
        accuracy,
        wavelength_m=geometry.beam.wavelength_m,
        distance_m=grid.thickness_m,
        pixel_size_m=min(geometry.object_pixel_m),
    )
    least = max(_LEAST_TILE, 4 * halo)
    ny, nx = (max(1, n // least) for n in window)
    return (ny, nx), halo


def slices_of(recipe: Recipe, geometry: ScanGeometry, several_angles: bool) -> int:
    """Return the number of slices along the beam for the recipe's accuracy."""
    pixel = geometry.object_pixel_m[1]
    depth_of_field = depth_of_field_m(pixel, geometry.beam.wavelength_m)
    thickest = thickest_slice_m(recipe.accuracy, depth_of_field_m=depth_of_field)
    if not several_angles:
        return 1 if recipe.depth_um is None else math.ceil(recipe.depth_um * 1e-6 / thickest)
    planes = _planes(recipe, geometry)
    return min(planes, math.ceil(planes * pixel / thickest))


def _planes(recipe: Recipe, geometry: ScanGeometry) -> int:
    if recipe.depth_um is not None:
        return max(1, round(recipe.depth_um * 1e-6 / geometry.object_pixel_m[1]))
    return _lateral(geometry, margin_from_recipe(recipe, geometry), True)[0][1]


def _lateral(geometry: ScanGeometry, margin: int, several_angles: bool) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return the lateral extent (y, x) of all windows in pixels, and its centre (y, x) in metres."""
    low, high = geometry.position_m.min(0), geometry.position_m.max(0)
    center = (low + high) / 2
    if several_angles:
        center[1], high[1] = 0.0, np.abs(geometry.position_m[:, 1]).max()
        low[1] = -high[1]
    frame = np.array(geometry.field_shape) + (2 * margin if technique_of(geometry).overlapping else 0)
    extent = np.ceil((high - low) / np.array(geometry.object_pixel_m) - 1e-3).astype(int) + frame
    return (int(extent[0]), int(extent[1])), (float(center[0]), float(center[1]))


def grid_of(recipe: Recipe, geometry: ScanGeometry, margin: int, slices: int, several_angles: bool) -> VolumeGrid:
    """Return the volume's grid: laterally it covers the windows of all views; its depth comes from the recipe."""
    (py, px), ((ny, nx), center) = geometry.object_pixel_m, _lateral(geometry, margin, several_angles)
    if several_angles:
        if abs(py / px - 1) > 1e-3:
            raise PlanError(
                "A volume from several angles needs square object pixels.",
                got=f"pixels of {py:g} by {px:g} m.",
                remedy="bin or crop the frames to square object pixels.",
            )
        return VolumeGrid((_planes(recipe, geometry), ny, nx), (px, py, px), (0.0, *center))
    depth = depth_of_field_m(px, geometry.beam.wavelength_m) if recipe.depth_um is None else recipe.depth_um * 1e-6
    return VolumeGrid((slices, ny, nx), (depth / slices, py, px), (0.0, *center))
