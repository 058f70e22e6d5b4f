"""Removes zingers: single pixels of one frame that an X-ray or a cosmic ray hit directly."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_EXCESS = 3.0
"""Excess of a zinger over the mean of its eight neighbours, relative to it.

A line of one pixel width cannot exceed it, whatever its contrast, nor can a spot of two pixels full width at half
maximum. Bright fringes therefore remain.
"""

_SIGMAS = 10.0
"""Excess of a zinger over the mean of its neighbours, in standard deviations of the counting noise."""

_LEAST_PHOTONS = 4.0
"""Mean number of photons for the noise of pixels with fewer, whose distribution has a longer tail than a Gaussian."""


_NEIGHBOURS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.float32) / 8


@dataclass(frozen=True)
class ZingerFilter:
    """Replaces zingers by the mean of their eight neighbours.

    Attributes:
        gain: variance of the counting noise over the mean: the stored value of one photon.
    """

    gain: float

    def find(self, frame: NDArray, good: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
        """Return (y, x) which pixels are zingers, and the frame without them.

        Args:
            frame: (y, x) stored frame.
            good: (y, x) True for good pixels; others are never zingers, nor are pixels that are not finite.
        """
        from scipy import ndimage

        values = frame.astype(np.float32)
        good = good & np.isfinite(values)
        if min(values.shape) < 3:
            return np.zeros(values.shape, bool), values
        mean = ndimage.convolve(np.where(good, values, 0), _NEIGHBOURS, mode="wrap")
        noise = self.gain * np.sqrt(np.maximum(mean / self.gain, _LEAST_PHOTONS))
        excess = values - mean
        found = good & (excess > _EXCESS * mean) & (excess > _SIGMAS * noise)
        return found, np.where(found, mean, values)


def photon_gain(frame: NDArray, good: NDArray[np.bool_]) -> float | None:
    """Return the stored value of one photon, from the noise of a frame; None if it has no light.

    The median of (a − b)² / (a + b) over pairs of neighbours a, b is 0.455 times the gain for counting noise. Structure
    in the frame increases it.

    Args:
        frame: (y, x) stored frame.
        good: (y, x) True for good pixels.
    """
    values = np.where(good & np.isfinite(frame), frame, 0).astype(np.float64)
    both = good[:, 1:] & good[:, :-1]
    total, difference = values[:, 1:] + values[:, :-1], values[:, 1:] - values[:, :-1]
    lit = both & (total > 0)
    if not lit.any():
        return None
    gain = float(np.median(difference[lit] ** 2 / total[lit])) / 0.455
    return gain if gain > 0 else None
