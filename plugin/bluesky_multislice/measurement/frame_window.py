"""A window of stored frames, cropped, padded and binned while it is read.

Shapes: stored frames (row, y, x) in the detector's orientation; windows (row, y, x) of binned pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.frames import FrameSource


@runtime_checkable
class PartialSource(Protocol):
    """A source that reads a rectangle of its frames without reading whole frames."""

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray:
        """Return the pixels (row, y, x) of consecutive rows; the slices have no step and lie inside of a frame."""
        ...


def read_part(source: FrameSource, rows: slice, y: slice, x: slice) -> NDArray:
    """Return a rectangle (row, y, x) of consecutive frames. Sources that can do so read no other pixels.

    Args:
        source: stored frames.
        rows: the frames.
        y: pixel rows inside of a frame.
        x: pixel columns inside of a frame.
    """
    if isinstance(source, PartialSource):
        return source.read_part(rows, y, x)
    return np.asarray(source[rows])[:, y, x]


@dataclass(frozen=True)
class FrameWindow:
    """A rectangle of stored pixels, binned by a whole number. It may reach past the detector.

    Attributes:
        start: first pixel (row, column), negative in front of the detector.
        size: pixels (rows, columns), multiples of ``binning``.
        binning: stored pixels per binned pixel and axis.
    """

    start: tuple[int, int]
    size: tuple[int, int]
    binning: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Binned pixels (y, x)."""
        return self.size[0] // self.binning, self.size[1] // self.binning

    def inside(self, detector: tuple[int, ...]) -> tuple[slice, slice]:
        """Return the rows and columns of a detector (y, x) that are in the window; empty if there are none."""
        (y, x), (ny, nx) = self.start, self.size
        low, high = (max(0, y), max(0, x)), (min(detector[0], y + ny), min(detector[1], x + nx))
        return slice(low[0], max(low[0], high[0])), slice(low[1], max(low[1], high[1]))

    def padded(self, part: NDArray, detector: tuple[int, ...]) -> NDArray:
        """Return the window (…, y, x), not yet binned, from its part inside of the detector; zero or False outside."""
        y, x = self.inside(detector)
        if part.shape[-2:] == self.size:
            return part
        whole = np.zeros((*part.shape[:-2], *self.size), part.dtype)
        at_y, at_x = y.start - self.start[0], x.start - self.start[1]
        whole[..., at_y : at_y + part.shape[-2], at_x : at_x + part.shape[-1]] = part
        return whole

    def blocks(self, window: NDArray) -> NDArray:
        """Return the pixels (…, y, binning, x, binning) of each binned pixel."""
        (ny, nx), n = self.shape, self.binning
        return window.reshape(*window.shape[:-2], ny, n, nx, n)

    def good(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return (y, x) whether all pixels of a binned pixel are good.

        Args:
            mask: (y, x) True for the good pixels of the detector.
        """
        y, x = self.inside(mask.shape)
        return np.asarray(self.blocks(self.padded(mask[y, x], mask.shape)).all(axis=(1, 3)))


class WindowedFrames:
    """A window of stored frames. Each frame is read, corrected, padded and binned alone.

    A binned pixel is the sum of its pixels, which keeps the statistics of counts, or their mean. If one of them is
    saturated, it has at least the value of a saturated binned pixel. If one is negative, it has the smallest value, so
    that invalid pixels remain invalid.

    Args:
        source: stored frames.
        window: the window.
        average: whether binned pixels are means.
        saturation: stored value at and above which a pixel is saturated; None: the largest value of an integer type.
        correct: (part, row) → corrected part (y, x) of a stored frame, in float32; None: no correction.

    Attributes:
        source: the stored frames.
        window: the window.
        saturation: the same for binned pixels.
    """

    def __init__(
        self,
        source: FrameSource,
        window: FrameWindow,
        *,
        average: bool = False,
        saturation: float | None = None,
        correct: Callable[[NDArray, int], NDArray] | None = None,
    ) -> None:
        self.source, self.window, self._correct = source, window, correct
        self._factor = 1 if average else window.binning**2
        self._limit = saturation
        if saturation is None and np.issubdtype(source.dtype, np.integer):
            self._limit = float(np.iinfo(source.dtype).max)
        self.saturation = None if self._limit is None else self._limit * self._factor
        self.shape: tuple[int, ...] = (source.shape[0], *window.shape)
        unchanged = window.binning == 1 and correct is None
        self.dtype: np.dtype = np.dtype(source.dtype) if unchanged else np.dtype(np.float32)

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return windows (row, y, x) of consecutive rows. Only pixels in the window are read."""
        start, stop, _ = rows.indices(self.shape[0])
        frames = [self._read(row) for row in range(start, stop)]
        return np.stack(frames) if frames else np.empty((0, *self.shape[1:]), self.dtype)

    def _read(self, row: int) -> NDArray:
        detector = tuple(self.source.shape[1:])
        y, x = self.window.inside(detector)
        part = read_part(self.source, slice(row, row + 1), y, x)[0]
        if self._correct is not None:
            part = self._correct(part, row)
        whole = self.window.padded(part, detector)
        return whole if self.window.binning == 1 else self._binned(self.window.blocks(whole))

    def _binned(self, blocks: NDArray) -> NDArray[np.float32]:
        binned = blocks.mean(axis=(1, 3), dtype=np.float64) * self._factor
        low = blocks.min(axis=(1, 3))
        binned = np.where(low < 0, low, binned)
        if self._limit is not None and self.saturation is not None:
            saturated = (blocks >= self._limit).any(axis=(1, 3))
            binned = np.where(saturated, np.maximum(binned, self.saturation), binned)
        return binned.astype(np.float32)
