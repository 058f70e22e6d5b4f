"""Rotation axis far from the middle of the frames (half acquisition), from pairs of frames of opposite angles.

A projection and the mirrored projection of the opposite angle are equal where they overlap. The search of algotom
(``find_center_360``) compares a window of fixed width at the edge of a sinogram; here the whole overlap counts, and
the correlation tells whether there is one.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.frames import Saturated
from bluesky_multislice.measurement.geometry import ScanGeometry
from bluesky_multislice.measurement.scan import Scan

AXIS_REACH = 8
"""An axis within the frame's width over this number on either side of the middle needs no half acquisition."""

_PAIRS, _LEAST_PAIRS = 24, 6
"""Largest and smallest number of pairs of opposite frames that are compared."""

_BANDS = 64
"""Largest number of bands of rows that are compared; rows of a band are averaged."""

_DETAILS = 10
"""Structures wider than the width over this number are filtered out."""

_LEAST_OVERLAP = 16
"""The frames overlap by at least the width over this number."""

_LEAST_CORRELATION = 0.3
"""Smallest correlation of the frames where they overlap."""

_AGREEMENT_PIXELS = 1.0
"""Largest difference between the axes from two halves of the pairs."""

_MOST_MISMATCH_RAD = 0.05
"""Largest deviation of a pair from opposite angles."""


def find_axis_near_edge(scan: Scan, saturated: Saturated = "refuse") -> float | None:
    """Return the position of the axis along x from the scan's axis, in pixels of the frames.

    None if the scan gives the axis or translations in x, if there are too few pairs of opposite frames, if they cannot
    be read or tell no axis, or if it is within the width over ``AXIS_REACH`` of the middle of the frames.

    Args:
        scan: near-field frames that contain the sample's whole height at every angle.
        saturated: treatment of saturated pixels.
    """
    position_m, pixel_m = scan.geometry.position_m[:, 1], scan.geometry.object_pixel_m[1]
    present = -float(position_m.mean()) / pixel_m
    # A region of the frames shifts positions that nobody has given.
    given = abs(present) > 1e-3 and "position_x" not in scan.absent
    pairs = _opposite_pairs(scan.geometry)
    if given or np.ptp(position_m) > 1e-3 * pixel_m or len(pairs) < _LEAST_PAIRS:
        return None
    try:
        details = _details(scan, pairs.ravel(), saturated)
    except FramesError:  # The fit reads all frames and reports it.
        return None
    details = details.reshape(*pairs.shape, *details.shape[1:])
    axis, correlation = _axis_of(details)
    halves = [_axis_of(details[part::2])[0] for part in (0, 1)]
    agree = abs(halves[0] - halves[1]) <= _AGREEMENT_PIXELS
    far = abs(axis) >= details.shape[-1] / AXIS_REACH
    return axis - present if agree and far and correlation >= _LEAST_CORRELATION else None


def move_axis(scan: Scan, pixels: float, pixel_m: float) -> Scan:
    """Return the scan with its axis shifted by this many pixels along x; the positions shift the opposite way."""
    return replace(scan, geometry=with_moved_axis(scan.geometry, pixels, pixel_m)) if pixels else scan


def with_moved_axis(geometry: ScanGeometry, pixels: float, pixel_m: float) -> ScanGeometry:
    """Return the geometry with its axis shifted by this many pixels along x."""
    return replace(geometry, position_m=geometry.position_m - np.array([0.0, pixels * pixel_m]))


def _opposite_pairs(geometry: ScanGeometry) -> NDArray[np.intp]:
    """Return (pair, 2) views of opposite angles at one distance, evenly spread; empty if there are none."""
    none, pixel_m = np.empty((0, 2), np.intp), geometry.object_pixel_m
    if np.ptp(geometry.position_m[:, 0]) > pixel_m[0] or np.ptp(geometry.magnification) > 1e-3:
        return none
    views = np.flatnonzero(geometry.distance_m == geometry.distance_m[0])
    full_turn = 2 * np.pi
    angle_rad = geometry.angle_rad[views] % full_turn
    different = np.unique(angle_rad)
    if len(different) < 2 * _LEAST_PAIRS:
        return none
    most = min(0.6 * float(np.median(np.diff(different))), _MOST_MISMATCH_RAD) + 1e-6
    first = np.flatnonzero(angle_rad < np.pi)
    nearest, difference = _nearest_opposite(angle_rad, first)
    opposite = np.flatnonzero(difference <= most)
    if not len(opposite):
        return none
    opposite = opposite[np.argsort(angle_rad[first[opposite]], kind="stable")]
    spread = opposite[np.unique(np.linspace(0, len(opposite) - 1, _PAIRS).round().astype(int))]
    return np.stack([views[first[spread]], views[nearest[spread]]], axis=1)


def _nearest_opposite(
    angle_rad: NDArray[np.float64], first: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the index of the angle that is closest to opposite of each of ``first``, and its deviation in rad."""
    order = np.argsort(angle_rad, kind="stable")
    at = np.searchsorted(angle_rad[order], (angle_rad[first] + np.pi) % (2 * np.pi))
    around = order[np.stack([at - 1, at]) % len(order)]
    deviation = np.abs((angle_rad[around] - angle_rad[first]) % (2 * np.pi) - np.pi)
    closest = deviation.argmin(0)
    rows = np.arange(len(first))
    return around[closest, rows], deviation[closest, rows]


def _details(scan: Scan, views: NDArray[np.intp], saturated: Saturated) -> NDArray[np.float32]:
    """Return (view, band, x) what changes from frame to frame, without wide structures."""
    from scipy import ndimage

    height = scan.frames.shape[0]
    bands = min(_BANDS, height)
    frames = []
    for view in views.tolist():
        frame = scan.frames.read(np.array([view]), saturated=saturated)[0]
        frames.append(np.nan_to_num(frame)[: height // bands * bands].reshape(bands, -1, frame.shape[1]).mean(1))
    found = np.stack(frames)
    found -= found.mean(0)
    found = ndimage.gaussian_filter1d(found, 1.0, axis=-1, mode="nearest")
    wide = ndimage.gaussian_filter1d(found, found.shape[-1] / _DETAILS, axis=-1, mode="nearest")
    return np.asarray(found - wide, np.float32)


def _axis_of(details: NDArray[np.float32]) -> tuple[float, float]:
    """Return the axis in pixels from the middle, and the correlation of the frames about it.

    Args:
        details: (pair, 2, band, x).
    """
    width = details.shape[-1]
    one, other = (details[:, part].reshape(-1, width).astype(np.float64) for part in (0, 1))
    shifts, correlation = _correlations(one, other[:, ::-1])
    score = correlation * np.sqrt(1 - np.abs(shifts) / width)
    best = int(score.argmax())
    near = correlation[[max(best - 1, 0), best, min(best + 1, len(shifts) - 1)]]
    curvature = near[0] - 2 * near[1] + near[2]
    vertex = 0.5 * (near[0] - near[2]) / curvature if curvature < 0 else 0.0
    return -(float(shifts[best]) + float(np.clip(vertex, -0.5, 0.5))) / 2, float(correlation[best])


def _correlations(one: NDArray, other: NDArray) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return shifts (n,) and the correlation of one(x) with other(x + shift), where the lines (line, x) overlap."""
    lines, width = one.shape
    most = width - max(8, width // _LEAST_OVERLAP)
    shifts = np.arange(-most, most + 1)
    spectra = (np.fft.rfft(part, 2 * width, axis=-1) for part in (one, other))
    first, second = spectra
    product = np.fft.irfft((first.conj() * second).sum(0), 2 * width)[shifts]
    starts, count = np.maximum(0, -shifts), width - np.abs(shifts)

    def sums(part: NDArray, start: NDArray[np.intp]) -> NDArray[np.float64]:
        cumulative = np.concatenate([[0.0], np.cumsum(part.sum(0))])
        return cumulative[start + count] - cumulative[start]

    total = [sums(one, starts), sums(other, starts + shifts)]
    squares = [sums(one**2, starts), sums(other**2, starts + shifts)]
    samples = lines * count
    variance = [square - mean**2 / samples for square, mean in zip(squares, total, strict=True)]
    scale = np.sqrt(np.maximum(variance[0], 0) * np.maximum(variance[1], 0))
    floor = 1e-12 * max(float(scale.max(initial=0)), 1e-300)
    return shifts, (product - total[0] * total[1] / samples) / np.maximum(scale, floor)
