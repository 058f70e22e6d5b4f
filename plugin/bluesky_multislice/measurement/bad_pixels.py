"""Finds detector pixels without a measured value, from a sample of the stored frames.

Every rule needs the same fault in all sampled frames. A region is a set of touching pixels, its rim are the pixels that
touch it. Statistics are running ones, so that memory does not grow with the number of frames.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.frames import Frames, FrameSource
from bluesky_multislice.measurement.scan import Scan

_SAMPLE = 16
_LEAST_SAMPLE = 3
"""Largest and smallest number of frames that are looked at."""

_HOT_OVER_RIM = 20.0
"""Factor by which a hot pixel exceeds the brightest of its neighbours, in any two frames."""

_HOT_LEAST = 10.0
"""Smallest value of a hot pixel."""

_MARKS = tuple(float(2**bits - step) for bits in (12, 14, 16, 20, 24, 31, 32, 63, 64) for step in (1, 2))
"""Values with which detectors mark pixels without a counter, and defective pixels."""

_LIVE_RIM = 0.95
"""Fraction of the rim of a dead region that has light in every frame."""


@dataclass(frozen=True, eq=False)
class BadPixels:
    """Pixels without a measured value.

    Attributes:
        bad: (y, x) True for these pixels, in the stored orientation.
        notes: one note per kind of fault.
    """

    bad: NDArray[np.bool_]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Range:
    """Smallest and largest value (y, x) of each pixel in the sampled frames; NaN if no value is finite."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    frames: int


def find_bad_pixels(frames: Frames, *, far_field: bool) -> BadPixels:
    """Find pixels that hold the same invalid value in all sampled frames, dead pixels and hot pixels.

    - Not a number, infinite, or negative and constant: no value.
    - A constant value with which detectors mark pixels (such as 65535), in a region at the border of the frame, or a
      hundred times above its rim: a gap or defective. At another place it can be saturated light, and is kept.
    - Zero in all frames, in a region whose rim has light in all frames: dead.
    - Over 20 times brighter than all neighbours in all frames: hot. The middle of a far-field pattern, where the direct
      beam is, has no hot pixels.

    If no good pixel were left, the frames are wrong rather than their pixels, and none is found.

    Args:
        frames: the frames; pixels outside of their mask are not looked at.
        far_field: whether frames are diffraction patterns.
    """
    good, found = frames.stored_mask, _range_of(frames.source, frames.rows)
    if found is None or not good.any():
        return BadPixels(np.zeros(good.shape, bool))
    masks = [(good & np.isnan(found.low), "hold no finite value"), *_marked_pixels(found, good)]
    marked = np.logical_or.reduce([mask for mask, _ in masks])
    masks.append((_dead_pixels(found, good & ~marked), "are dead: zero, although their neighbours have light,"))
    masks.append((_hot_pixels(found, good & ~marked, far_field), "are hot: over 20 times as bright as all neighbours"))
    notes = [
        f"{int(mask.sum())} pixels {fault} in all {found.frames} frames that were looked at: they are masked"
        for mask, fault in masks
        if mask.any()
    ]
    bad = np.logical_or.reduce([mask for mask, _ in masks])
    return BadPixels(bad, tuple(notes)) if (good & ~bad).any() else BadPixels(np.zeros_like(bad))


def mask_bad_pixels(scan: Scan) -> Scan:
    """Return the scan with the pixels of ``find_bad_pixels`` masked, and a warning for each kind of fault."""
    found = find_bad_pixels(scan.frames, far_field=scan.geometry.detector.regime == "far_field")
    if not found.bad.any():
        return scan
    return replace(scan, frames=scan.frames.without(found.bad), warnings=(*scan.warnings, *found.notes))


def _marked_pixels(found: _Range, good: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield pixels that hold a mark or a negative value in all frames, and what they hold."""
    constant = good & (found.low == found.high)
    for value in np.unique(found.low[constant & ((found.low < 0) | np.isin(found.low, _MARKS))]).tolist():
        pixels = constant & (found.low == value)
        if value > 0:
            pixels &= _gaps(pixels, found, value)
        yield pixels, f"hold the same value, {value:.0f} (a gap between modules, or defective),"


def _gaps(pixels: NDArray[np.bool_], found: _Range, value: float) -> NDArray[np.bool_]:
    """Return the regions of these pixels that are at the border of the frame, or far above their rim."""
    regions, rims, count = _regions(pixels)
    bright_rims = np.bincount(rims[found.high > value / 100], minlength=count + 1)
    accepted = bright_rims == 0
    for edge in (regions[0], regions[-1], regions[:, 0], regions[:, -1]):
        accepted[edge] = True
    accepted[0] = False
    return accepted[regions]


def _dead_pixels(found: _Range, good: NDArray[np.bool_]) -> NDArray[np.bool_]:
    regions, rims, count = _regions(good & (found.high == 0))
    rims = np.where(good, rims, 0)
    live = np.bincount(rims[found.low > 0], minlength=count + 1)
    rim = np.bincount(rims.ravel(), minlength=count + 1)
    accepted = (rim > 0) & (live >= _LIVE_RIM * rim)
    accepted[0] = False
    return accepted[regions]


def _regions(pixels: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32], int]:
    """Return each pixel's region (y, x), the region on whose rim it is, and the number of regions; 0: no region."""
    from scipy import ndimage

    regions = np.zeros(pixels.shape, np.int32)
    ndimage.label(pixels, np.ones((3, 3)), regions)
    rims = np.where(pixels, 0, np.asarray(ndimage.maximum_filter(regions, 3)))
    return regions, rims, int(regions.max(initial=0))


def _hot_pixels(found: _Range, good: NDArray[np.bool_], far_field: bool) -> NDArray[np.bool_]:
    from scipy import ndimage

    around = np.ones((3, 3), bool)
    around[1, 1] = False
    values = np.where(good, found.high, 0)
    brightest = np.asarray(ndimage.maximum_filter(values, footprint=around, mode="constant"))
    hot = good & (found.low >= _HOT_LEAST) & (found.low > _HOT_OVER_RIM * brightest)
    if far_field:
        distance = [np.abs(np.arange(n) - n // 2) <= max(3, n // 8) for n in good.shape]
        hot &= ~(distance[0][:, None] & distance[1][None, :])
    return hot


def _range_of(source: FrameSource, rows: NDArray[np.intp]) -> _Range | None:
    """Return the range of each pixel in evenly spaced frames; None if too few are readable."""
    low = high = np.empty(0)
    count = 0
    for frame in _sample(source, rows):
        low, high = (np.fmin(low, frame), np.fmax(high, frame)) if count else (frame, frame)
        count += 1
    return _Range(low, high, count) if count >= _LEAST_SAMPLE else None


def _sample(source: FrameSource, rows: NDArray[np.intp]) -> Iterator[NDArray[np.float64]]:
    for at in np.unique(np.linspace(0, len(rows) - 1, _SAMPLE).round().astype(int)):
        row = int(rows[at])
        try:
            stored = np.asarray(source[row : row + 1])
        except OSError:  # The frame is read again for the fit, which reports the error.
            continue
        if len(stored):
            frame = stored[0].astype(np.float64)
            yield np.where(np.isfinite(frame), frame, np.nan)
