"""Finds frames that are far brighter or darker than neighbouring frames, and empty frames."""

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.geometry import ScanGeometry

OUTLIER_FACTOR = 10.0
"""Ratio of a frame's intensity to that of its neighbours above which, or below whose inverse, it is an outlier.

Samples and overlapping windows change the intensity from frame to frame by less.
"""

_EMPTY = 1e-4
"""Intensity of a frame, relative to the median of its distance, at and below which it is empty: the beam was off.

No sample that can be reconstructed transmits so little.
"""

_NEIGHBOURS_IN_SPACE, _NEIGHBOURS_IN_TIME = 8, 24
"""Number of neighbours of a frame: all around it on a square grid of positions, or the frames taken around it."""

_LEAST_NEIGHBOURS = 4
"""With fewer neighbours, no frame is an outlier: a quarter of them would be less than one frame."""

_SIMILAR = 0.25
"""Fraction of the neighbours: with more that are as bright, or as dark, a frame is no outlier."""


def outlier_frames(intensity: NDArray[np.float64], geometry: ScanGeometry) -> NDArray[np.bool_]:
    """Return (view,) whether a frame is over ten times brighter or darker than its neighbours, or empty.

    A frame is no outlier if over a quarter of its neighbours have at least a tenth of its intensity (at most ten times
    its intensity, if it is dark). Therefore the edge of a sample, and a sample that moves into the beam, are no
    outliers; neither is any frame if most of its neighbours are without light.

    The neighbours of a frame are the views at the 8 nearest positions of the same angle and distance. If an angle has
    no more than 8 views, or all at one position, they are up to 24 views of the same distance that were taken just
    before and after it.

    A frame is empty if it has at most a ten-thousandth of the median intensity of all frames of its distance. Frames of
    a beam that was off for longer are found by this rule, although their neighbours are empty as well.

    Args:
        intensity: (view,) mean intensity of each frame, in any unit.
        geometry: the scan.
    """
    outliers, in_time = np.zeros(geometry.views, bool), np.ones(geometry.views, bool)
    distance_of = np.unique(geometry.distance_m, return_inverse=True)[1]
    rasters = np.unique(np.stack([distance_of, geometry.angle_rad]), axis=1, return_inverse=True)[1].ravel()
    for members in _groups(rasters):
        if len(members) > _NEIGHBOURS_IN_SPACE and np.ptp(geometry.position_m[members], axis=0).any():
            outliers[members] = _differ(intensity[members], _nearest(geometry.position_m[members]))
            in_time[members] = False
    for members in _groups(np.where(in_time, distance_of, -1)):
        if in_time[members].all() and len(members) > _LEAST_NEIGHBOURS:
            outliers[members] = _differ(intensity[members], _consecutive(len(members)))
    return outliers | _empty_frames(intensity, geometry)


def _empty_frames(intensity: NDArray[np.float64], geometry: ScanGeometry) -> NDArray[np.bool_]:
    """Return (view,) whether a frame is empty; see ``outlier_frames``."""
    empty = np.zeros(geometry.views, bool)
    for members in _groups(np.unique(geometry.distance_m, return_inverse=True)[1].ravel()):
        if len(members) > _LEAST_NEIGHBOURS:
            median = np.median(intensity[members])
            empty[members] = (median > 0) & (intensity[members] <= _EMPTY * median)
    return empty


def _groups(labels: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the indices of each label, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _nearest(position_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (view, 8) the indices of the views at the nearest positions."""
    # Imported here because importing SciPy is slow, and listing the options does not need it.
    from scipy.spatial import KDTree

    found = np.asarray(KDTree(position_m).query(position_m, k=_NEIGHBOURS_IN_SPACE + 1)[1])
    # Of views at the same position, the first found need not be the view itself.
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), _NEIGHBOURS_IN_SPACE)


def _consecutive(views: int) -> NDArray[np.intp]:
    """Return (view, n) the indices of the views before and after each view."""
    count = min(_NEIGHBOURS_IN_TIME, views - 1)
    first = np.clip(np.arange(views) - count // 2, 0, views - 1 - count)
    found = first[:, None] + np.arange(count)
    return found + (found >= np.arange(views)[:, None])


def _differ(intensity: NDArray[np.float64], neighbours: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return (view,) whether intensities differ from those of their neighbours (view, n); see ``outlier_frames``."""
    ordered = np.sort(intensity[neighbours], axis=1)
    similar = int(_SIMILAR * ordered.shape[1])
    bright, dark = ordered[:, -1 - similar], ordered[:, similar]
    return (bright > 0) & ((intensity > OUTLIER_FACTOR * bright) | (intensity < dark / OUTLIER_FACTOR))
