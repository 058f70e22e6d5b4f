"""Finds frames without light, and frames that are far too bright, by comparison with the frames around them."""

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.geometry import ScanGeometry

UNUSUAL_FACTOR = 10.0
"""Ratio of intensities, frame to frames around it, above which (or below whose inverse) a frame is left out.

Samples and overlapping windows change the intensity from frame to frame by less.
"""

_AROUND_IN_SPACE, _AROUND_IN_TIME = 8, 24
"""Number of frames around a frame: nearest positions at the same angle, or consecutive frames."""

_LEAST_AROUND = 4
"""With fewer frames around it, no frame is left out."""

_ALIKE = 0.25
"""A frame is kept if more than this fraction of the frames around it are as unusual."""


def unusual_frames(intensity: NDArray[np.float64], geometry: ScanGeometry) -> NDArray[np.bool_]:
    """Return (view,) whether a frame is over ten times brighter or darker than the frames around it.

    A frame is kept if more than a quarter of the frames around it are as bright, or as dark. The edge of a sample and a
    sample that moves into the beam are therefore no fault. The frames around a frame are those at the 8 nearest
    positions of the same angle and distance, or else the 24 consecutive ones of the same distance.

    Args:
        intensity: (view,) mean intensity of each frame.
        geometry: the scan.
    """
    unusual, in_time = np.zeros(geometry.views, bool), np.ones(geometry.views, bool)
    distance_of = np.unique(geometry.distance_m, return_inverse=True)[1]
    places = np.unique(np.stack([distance_of, geometry.angle_rad]), axis=1, return_inverse=True)[1].ravel()
    for members in _groups(places):
        if len(members) > _AROUND_IN_SPACE and np.ptp(geometry.position_m[members], axis=0).any():
            unusual[members] = _differ(intensity[members], _nearest(geometry.position_m[members]))
            in_time[members] = False
    for members in _groups(np.where(in_time, distance_of, -1)):
        if in_time[members].all() and len(members) > _LEAST_AROUND:
            unusual[members] = _differ(intensity[members], _consecutive(len(members)))
    return unusual


def _groups(labels: NDArray[np.intp]) -> list[NDArray[np.intp]]:
    """Return the indices of each label, ascending."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _nearest(position_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (view, 8) the views at the nearest positions."""
    # Imported here because importing SciPy is slow, and listing the options does not need it.
    from scipy.spatial import KDTree

    found = np.asarray(KDTree(position_m).query(position_m, k=_AROUND_IN_SPACE + 1)[1])
    # Of views at the same position, the first found need not be the view itself.
    own = found == np.arange(len(found))[:, None]
    own[~own.any(axis=1), -1] = True
    return found[~own].reshape(len(found), _AROUND_IN_SPACE)


def _consecutive(views: int) -> NDArray[np.intp]:
    """Return (view, n) the views before and after each view."""
    around = min(_AROUND_IN_TIME, views - 1)
    first = np.clip(np.arange(views) - around // 2, 0, views - 1 - around)
    found = first[:, None] + np.arange(around)
    return found + (found >= np.arange(views)[:, None])


def _differ(intensity: NDArray[np.float64], around: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return (view,) whether intensities differ from almost all around them; see ``unusual_frames``."""
    ordered = np.sort(intensity[around], axis=1)
    alike = int(_ALIKE * ordered.shape[1])
    bright, dark = ordered[:, -1 - alike], ordered[:, alike]
    return (bright > 0) & ((intensity > UNUSUAL_FACTOR * bright) | (intensity < dark / UNUSUAL_FACTOR))
