"""Frames that do not fit while others do, and what they have in common."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement import ScanGeometry

UNFIT_FACTOR = 2.0
"""Smallest ratio of a frame's R-factor to the median for a frame that does not fit."""

UNFIT_DEVIATIONS = 4.0
"""Smallest deviation of the logarithm of its R-factor from the median, in robust standard deviations."""

_MOST_NAMED = 5
"""Largest number of frames that a text names."""

_LEAST_SHARED = 3
"""Smallest number of frames whose common trait is told."""

_SIDE = 1 / 3
"""Part of the scanned range that counts as its side."""


@dataclass(frozen=True, eq=False)
class UnfitFrames:
    """Frames that do not fit.

    Attributes:
        views: their views, ascending.
        r_factors: (view,) R-factor of every frame of the scan; NaN if it was left out.
        geometry: the scan.
    """

    views: NDArray[np.intp]
    r_factors: NDArray[np.float64]
    geometry: ScanGeometry

    @property
    def text(self) -> str:
        """The frames with their angle and R-factor, the first few, and what they have in common."""
        named = [
            f"view {view} ({np.degrees(self.geometry.angle_rad[view]):.4g}°, R-factor {self.r_factors[view]:.2g})"
            for view in self.views[:_MOST_NAMED].tolist()
        ]
        more = len(self.views) - len(named)
        traits = shared_traits(self.views, self.geometry)
        common = f"; they have in common: {', '.join(traits)}" if traits else ""
        return ", ".join(named) + (f" and {more} more" if more else "") + common


def find_unfit_frames(
    r_factors: NDArray[np.float64], held_back: NDArray[np.bool_], geometry: ScanGeometry
) -> UnfitFrames:
    """Return the frames whose R-factor is an outlier among those of their kind, fitted or held back, at one distance.

    Args:
        r_factors: (view,) R-factor of each frame; NaN if it was left out.
        held_back: (view,) whether it is a validation frame.
        geometry: the scan.
    """
    known = ~np.isnan(r_factors)
    logarithm = np.log(np.clip(r_factors, np.finfo(float).tiny, np.finfo(float).max))
    deviation = np.zeros(len(r_factors))
    for distance_m in np.unique(geometry.distance_m):
        for held in (False, True):
            members = known & (geometry.distance_m == distance_m) & (held_back == held)
            if members.any():
                deviation[members] = logarithm[members] - np.median(logarithm[members])
    # Of the better half only, which frames that do not fit hardly change.
    better = deviation[known & (deviation <= 0)]
    spread = 1.4826 * float(np.median(-better)) if len(better) else 0.0
    views = np.flatnonzero(known & (deviation > max(np.log(UNFIT_FACTOR), UNFIT_DEVIATIONS * spread)))
    return UnfitFrames(views, r_factors, geometry)


def shared_traits(views: NDArray[np.intp], geometry: ScanGeometry) -> list[str]:
    """Return what three or more of the scan's views have in common: angle, time, or side of the scanned area."""
    if len(views) < _LEAST_SHARED:
        return []
    # The frames of an angle are taken one after another.
    when = _shared_angle(views, geometry) or _shared_time(views, geometry.views)
    return [*when, *_shared_side(views, geometry)]


def _shared_angle(views: NDArray[np.intp], geometry: ScanGeometry) -> list[str]:
    angles_rad = np.unique(geometry.angle_rad[views])
    if len(angles_rad) > 1 or np.ptp(geometry.angle_rad) == 0:
        return []
    of_angle = int((geometry.angle_rad == angles_rad[0]).sum())
    return [f"the angle {np.degrees(angles_rad[0]):.4g}° ({len(views)} of its {of_angle} frames)"]


def _shared_time(views: NDArray[np.intp], all_views: int) -> list[str]:
    first, last = int(views[0]), int(views[-1])
    # Every twentieth frame is a validation frame and may be judged otherwise.
    if last - first + 1 > 1.25 * len(views) or len(views) == all_views:
        return []
    place = " at the start of the scan" if first == 0 else " at the end of the scan" if last == all_views - 1 else ""
    return [f"consecutive views, {first} to {last}{place}"]


def _shared_side(views: NDArray[np.intp], geometry: ScanGeometry) -> list[str]:
    """Return the side or the corner of the scanned area with all of these views."""
    sides = []
    for axis, name in enumerate("yx"):
        position_m = geometry.position_m[:, axis]
        extent_m = float(np.ptp(position_m))
        if extent_m == 0:
            continue
        part = (position_m[views] - position_m.min()) / extent_m
        if part.max() <= _SIDE:
            sides.append(f"smallest {name}")
        elif part.min() >= 1 - _SIDE:
            sides.append(f"largest {name}")
    if not sides:
        return []
    return [f"the {'corner' if len(sides) == 2 else 'side'} of the scanned area with the {' and '.join(sides)}"]
