"""Gain errors of single detector pixels that flats do not know. In a tomogram they make rings.

An error of the gain is the same in all frames, while the sample rotates. The mean of many frames over its 3 x 3 median
therefore contains the errors, and the part of the sample that does not vanish in the mean. Frames of several ranges of
angles tell the two apart: errors are equal in all of them, and independent from pixel to pixel.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.frame_window import FrameWindow, WindowedFrames
from bluesky_multislice.measurement.frames import Frames, unorient
from bluesky_multislice.measurement.geometry import ScanGeometry

_SECTORS = 4
"""Number of ranges of angles."""

_SAMPLE = 64
"""Number of frames that are read for the estimate."""

_LEAST_ANGLES = 16
"""Smallest number of angles of a tomogram that is looked at without being asked."""

_LEAST_RATIO = 1.5
"""Smallest standard deviation of the errors over that of their estimate, for a correction without being asked."""

_MOST_CORRELATION = 0.05
"""Largest correlation of estimated errors in neighbouring pixels, for a correction without being asked.

Gain errors have −0.1, because the median follows them; samples have 0.4 or more, and tubes around the rotation axis,
whose edges are at the same pixels in all frames, do too.
"""

_LOG_RANGE = 0.5
"""Largest correction of a pixel, as a natural logarithm. Pixels beyond it are dead or hot, and masked elsewhere."""


@dataclass(frozen=True, eq=False)
class PixelGains:
    """Estimated gain errors.

    Attributes:
        gain: (y, x) response relative to that of the neighbours, in the stored orientation; 1 in masked pixels.
        error: standard deviation of the gain errors.
        ratio: the same over the standard deviation of their estimate.
        correlation: correlation of the estimate in neighbouring pixels.
    """

    gain: NDArray[np.float32]
    error: float
    ratio: float
    correlation: float

    @property
    def certain(self) -> bool:
        """Whether the errors are those of pixels, and large enough that their correction helps."""
        return self.ratio > _LEAST_RATIO and self.correlation < _MOST_CORRELATION


def estimate_gains(frames: Frames, geometry: ScanGeometry) -> PixelGains | None:
    """Return the gain errors of the pixels from a sample of the frames; None if they cannot be estimated.

    Args:
        frames: holograms, divided by flats if there are any.
        geometry: geometry of the scan.
    """
    # Imported here because options and their help need no SciPy.
    from scipy import ndimage

    order = np.argsort(geometry.angle_rad, kind="stable")
    sample = order[np.unique(np.linspace(0, len(order) - 1, _SAMPLE).round().astype(int))]
    good = unorient(frames.mask, frames.orientation)
    means = [mean for part in np.array_split(sample, _SECTORS) if (mean := _mean(frames, part)) is not None]
    if len(means) < _SECTORS or min(good.shape) < 3:
        return None
    logs = np.stack([np.log(np.maximum(mean, np.finfo(np.float32).tiny)) for mean in means])
    residuals = np.stack([log - ndimage.median_filter(log, 3, mode="nearest") for log in _filled(logs, good)])
    found = residuals.mean(axis=0)
    power = float(np.mean(found[good] ** 2))
    noise = float(np.mean(residuals.var(axis=0, ddof=1)[good])) / _SECTORS
    error2 = max(0.0, power - noise)
    if power == 0:
        return None
    log_gain = np.where(good, np.clip(error2 / power * found, -_LOG_RANGE, _LOG_RANGE), 0.0)
    return PixelGains(
        gain=np.exp(log_gain).astype(np.float32),
        error=float(np.sqrt(error2)),
        ratio=float(np.sqrt(error2 / noise)) if noise > 0 else np.inf,
        correlation=_neighbour_correlation(found, good),
    )


def correct_gains(frames: Frames, geometry: ScanGeometry, wanted: bool | None) -> tuple[Frames, list[str]]:
    """Return frames without gain errors of single pixels, and notes about it.

    Flats are multiplied by the errors, so that frames divided by them have none; without flats, frames are divided.

    Args:
        frames: the frames.
        geometry: their geometry.
        wanted: whether to correct; None: holograms of a tomogram, if errors of single pixels are found.

    Raises:
        FramesError: a correction is asked for that is impossible.
    """
    holograms = geometry.detector.regime == "near_field"
    angles = len(np.unique(geometry.angle_rad))
    if wanted is False or (wanted is None and not (holograms and _is_tomogram(geometry, angles))):
        return frames, []
    found = estimate_gains(frames, geometry) if holograms and angles >= _SECTORS else None
    if found is None:
        if wanted is None:
            return frames, []
        raise FramesError(
            "Gain errors of pixels are estimated from holograms at several angles.",
            got=f"{frames.views} {geometry.detector.regime} frames at {angles} angles.",
            remedy="omit frames.rings.",
        )
    if wanted is None and not found.certain:
        return frames, []
    source = WindowedFrames(
        frames.source,
        FrameWindow((0, 0), (frames.source.shape[1], frames.source.shape[2])),
        saturation=frames.saturation,
        correct=_Correction(frames, found.gain),
    )
    corrected = frames.with_source(source, mask=frames.stored_mask, saturation=frames.saturation)
    of_flats = "flats multiplied by them" if frames.flat_rows else "frames divided by them"
    return corrected, [
        f"frames: gain errors of single pixels of {found.error:.2%} (standard deviation), which would make rings, are "
        f"corrected: {of_flats} (estimated from {min(frames.views, _SAMPLE)} frames with {found.ratio:.1f} times the "
        f"uncertainty; correlation of neighbours {found.correlation:+.2f})"
    ]


class _Correction:
    """Corrects stored frames: flats if there are any, otherwise the frames of the sample.

    Args:
        frames: the frames before the correction, with their darks.
        gain: (y, x) response of the pixels.
    """

    def __init__(self, frames: Frames, gain: NDArray[np.float32]) -> None:
        self._frames = frames
        self._rows = frozenset(frames.flat_rows or frames.rows.tolist())
        self._factor = gain if frames.flat_rows else 1 / gain

    def __call__(self, part: NDArray, row: int) -> NDArray[np.float32]:
        """Return a stored frame (y, x) with its light, above the dark, times the factor."""
        stored = part.astype(np.float32)
        if row not in self._rows:
            return stored
        dark = self._frames.dark(row)
        return np.asarray(dark + (stored - dark) * self._factor, np.float32)


def _is_tomogram(geometry: ScanGeometry, angles: int) -> bool:
    """Return whether there are many angles, each with one position per distance."""
    distances = len(np.unique(geometry.distance_m))
    return angles >= _LEAST_ANGLES and geometry.views <= angles * distances


def _mean(frames: Frames, views: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the mean (y, x) of views in the stored orientation, without saturated pixels; None if none is readable."""
    total, seen = np.zeros(frames.shape), np.zeros(frames.shape)
    for view in views:
        try:
            frame = frames.read(np.array([view]), saturated="mask")[0]
        except FramesError:  # The frame is read again for the fit, which reports the error.
            continue
        level = float(np.mean(frame[np.isfinite(frame)])) if np.isfinite(frame).any() else 0.0
        if level > 0:  # Frames of different intensity count alike.
            total += np.where(np.isfinite(frame), frame / level, 0)
            seen += np.isfinite(frame)
    return unorient(total / np.maximum(seen, 1), frames.orientation) if seen.any() else None


def _filled(logs: NDArray[np.float64], good: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return images (…, y, x) with masked pixels replaced by the nearest good one."""
    from scipy import ndimage

    if good.all():
        return logs
    nearest = ndimage.distance_transform_edt(~good, return_distances=False, return_indices=True)
    return logs[(..., *np.asarray(nearest))]


def _neighbour_correlation(values: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    """Return the mean correlation with the next pixel in y and in x."""
    power = np.mean(values[good] ** 2)
    pairs = [
        (values[1:] * values[:-1])[good[1:] & good[:-1]],
        (values[:, 1:] * values[:, :-1])[good[:, 1:] & good[:, :-1]],
    ]
    return float(np.mean([pair.mean() / power for pair in pairs if pair.size]))
