"""Groups read-back values that differ by noise only: angles, distances and positions that were meant to be equal.

An encoder never repeats its last digits. A reconstruction rotates the volume once per angle and propagates once per
distance, so values that differ only by noise must be equal.

Rule: readings are grouped if

1. the readings of a group span at most ``_FRACTION`` of what shifts the image of a voxel at the volume's edge by one
   voxel (angles, positions, lengths of a cone beam), or changes the phase of the finest detail by π (distances), and
   at most the noise of a good stage: what differs by more was set, however little it matters to these pixels;
2. the gap between two groups is more than ``_SEPARATION`` times the span of the widest group. Equal steps, however
   fine, and drifts have no such gap, so they are never joined;
3. at least a quarter of the readings repeat another one. Otherwise two of many different values are close by chance.

Positions are grouped for scans without overlap only: a pattern is computed at its own position in any case.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.flat_field import detector_positions_differ
from bluesky_multislice.measurement.geometry import ScanGeometry

_FRACTION = 0.01
"""Read-back noise shifts the image of a voxel by at most this part of a voxel, far below what frames resolve."""

_MOST_ANGLE_RAD = np.radians(5e-3)
"""Largest span of angles that noise explains. The encoder of a rotation stage repeats to a thousandth of a degree."""

_MOST_DISTANCE = 1e-4, 5e-6
"""Largest span of distances that noise explains, relative and in metres: long stages repeat to some micrometres."""

_SEPARATION = 4
"""Least ratio between the gap of two groups and the span of a group."""

_HALVINGS = 60
"""From any tolerance down to the last digit of a float64."""


def group_readings(readings: NDArray[np.float64], tolerance: float) -> tuple[NDArray[np.float64], float]:
    """Return readings in which each group has one value, its mean; and the widest span of a group.

    Args:
        readings: (n,) finite readings.
        tolerance: largest span of a group.
    """
    order = np.argsort(readings, kind="stable")
    values = readings[order]
    gaps, gap = np.diff(values), _SEPARATION * tolerance
    for _ in range(_HALVINGS):
        starts = np.concatenate([[0], np.flatnonzero(gaps > gap) + 1])
        counts = np.diff(starts, append=len(values))
        spans = values[starts + counts - 1] - values[starts]
        if 4 * len(starts) > 3 * len(values):
            break
        if spans.max() <= gap / _SEPARATION:
            offsets = np.add.reduceat(values - np.repeat(values[starts], counts), starts) / counts
            grouped = np.empty_like(readings)
            grouped[order] = np.repeat(values[starts] + offsets, counts)
            return grouped, float(spans.max())
        gap /= 2
    return readings, 0.0


def group_geometry(geometry: ScanGeometry, *, overlapping: bool) -> tuple[ScanGeometry, dict[str, str]]:
    """Return the geometry without read-back noise, and a note per field that was grouped.

    Args:
        geometry: the scan as read back.
        overlapping: whether a probe is scanned over the sample; its positions are then left as they are.
    """
    focus_m = geometry.beam.focus_distance_m
    readings = {"angle": geometry.angle_rad, "distance": geometry.distance_m}
    if isinstance(focus_m, tuple):
        readings["focus_distance"] = np.array(focus_m)
    if not overlapping:
        readings["position_y"], readings["position_x"] = geometry.position_m.T
    tolerances, notes = _tolerances(geometry), dict[str, str]()
    for name, values in readings.items():
        given = _across_zero(values, tolerances[name]) if name == "angle" else values
        grouped, span = group_readings(given, tolerances[name])
        if span > 0:
            readings[name] = grouped
            apart = f"{np.degrees(span):.2g} degrees" if name == "angle" else f"{span:.2g} m"
            notes[name] = (
                f"{len(values)} readings grouped into {len(np.unique(readings[name]))}, "
                f"those of a group at most {apart} apart"
            )
    if isinstance(focus_m, tuple):
        grouped = readings["focus_distance"]
        focus_m = tuple(grouped.tolist()) if np.ptp(grouped) > 0 else float(grouped[0])
    position_m = geometry.position_m
    if not overlapping:
        position_m = np.stack([readings["position_y"], readings["position_x"]], axis=1)
    changed = replace(
        geometry,
        beam=replace(geometry.beam, focus_distance_m=focus_m),
        distance_m=readings["distance"],
        angle_rad=readings["angle"],
        position_m=position_m,
    )
    return changed, notes


def group_detector_positions(
    position_m: NDArray[np.float64], key: NDArray[np.integer], geometry: ScanGeometry
) -> NDArray[np.float64] | None:
    """Return (row,) detector positions without read-back noise; None if the detector did not move between views.

    Args:
        position_m: (row,) detector position along the beam of every stored frame, flats included; NaN: unknown.
        key: (row,) ``image_key`` of each stored frame.
        geometry: the scan.
    """
    grouped, known = position_m.copy(), np.isfinite(position_m)
    if known.any():
        grouped[known] = group_readings(position_m[known], _tolerances(geometry)["distance"])[0]
    return grouped if detector_positions_differ(grouped[key == 0]) else None


def _across_zero(angle_rad: NDArray[np.float64], tolerance: float) -> NDArray[np.float64]:
    """Return angles without the jump of an encoder of one turn, which reads 359.9999° and 0.0001° at the same angle.

    Angles that reach a whole turn are counted on, and have no such jump.
    """
    low, high = angle_rad.min(), angle_rad.max()
    jump = low + 2 * np.pi - high
    if 0 < jump <= tolerance and (low >= 0 or high < np.pi):
        return np.where(angle_rad > high - tolerance, angle_rad - 2 * np.pi, angle_rad)
    return angle_rad


def _tolerances(geometry: ScanGeometry) -> dict[str, float]:
    """Return the largest span of a group of readings per field: rad or m."""
    far_field, pixels = geometry.detector.regime == "far_field", max(geometry.detector.shape)
    if far_field:  # Distances may still differ, which the object's pitch does not allow.
        nearest_m = np.full(geometry.views, geometry.distance_m.min())
        voxel_m = min(replace(geometry, distance_m=nearest_m).object_pixel_m)
    else:
        voxel_m = min(geometry.object_pixel_m)
    radius_m = pixels * voxel_m / 2 + float(np.abs(geometry.position_m[:, 1]).max())
    across_m = _FRACTION * voxel_m
    return {
        "angle": min(across_m / radius_m, _MOST_ANGLE_RAD),
        "position_y": across_m,
        "position_x": across_m,
    } | _tolerances_along_beam(geometry, voxel_m, far_field)


def _tolerances_along_beam(geometry: ScanGeometry, voxel_m: float, far_field: bool) -> dict[str, float]:
    """Return the largest span of distances and of focus distances, m.

    The phase of the finest detail, of the frequency 1/(2·voxel), changes by π·λ·Δz/(4·voxel²), where Δz is the change
    of the effective distance z₁z₂/(z₁+z₂). The edge of a field of n voxels moves by n/2 times the relative change of
    the magnification (z₁+z₂)/z₁; in the far field, of the object's pitch, which is proportional to the distance.
    """
    distance_m, focus_m = geometry.distance_m, geometry.focus_distance_m
    edge, defocus_m = 2 / max(geometry.detector.shape), 4 * voxel_m**2 / geometry.beam.wavelength_m
    relative, absolute_m = _MOST_DISTANCE

    def bounded(tolerance_m: float, lengths_m: NDArray[np.float64]) -> float:
        return min(_FRACTION * tolerance_m, max(relative * np.abs(lengths_m).max(), absolute_m))

    if far_field:
        return {"distance": bounded(edge * distance_m.min(), distance_m), "focus_distance": 0.0}
    if focus_m is None:
        return {"distance": bounded(defocus_m, distance_m)}
    magnification, total_m = geometry.magnification, np.abs(focus_m + distance_m).min()
    by_distance_m = min(defocus_m * magnification.min() ** 2, edge * total_m)
    with np.errstate(divide="ignore"):
        by_focus_m = min(defocus_m * (total_m / np.abs(distance_m).max()) ** 2, edge * np.abs(focus_m).min())
    return {"distance": bounded(by_distance_m, distance_m), "focus_distance": bounded(by_focus_m, focus_m)}
