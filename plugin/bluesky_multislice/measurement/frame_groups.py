"""Several frames per event or position: combined into one view, or each a view of its own.

Shapes: stored frames (row, y, x), where the frames of a view are consecutive; combined frames (view, y, x).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.frame_window import read_part
from bluesky_multislice.measurement.frames import FrameSource

Combination = Literal["mean", "sum", "stack"]
"""How several frames of an event or position are used: their mean, their sum, or each as a view of its own."""


class CombinedFrames:
    """The mean or the sum of every ``count`` consecutive frames, float32.

    Args:
        source: stored frames; the frames of a view are consecutive.
        count: frames per view.
        combination: how they are combined.
        saturation: stored value at and above which a pixel is saturated; None: the largest value of an integer type.

    Attributes:
        stored: the stored frames.
        saturation: the same for combined frames. A pixel that is saturated in one frame has at least this value.
    """

    def __init__(
        self, source: FrameSource, count: int, combination: Combination, saturation: float | None = None
    ) -> None:
        if saturation is None and np.issubdtype(source.dtype, np.integer):
            saturation = float(np.iinfo(source.dtype).max)
        self.stored, self._count, self._combination, self._limit = source, count, combination, saturation
        self._factor = count if combination == "sum" else 1
        self.shape: tuple[int, ...] = (source.shape[0] // count, *source.shape[1:])
        self.dtype: np.dtype = np.dtype(np.float32)
        self.saturation = None if saturation is None else saturation * self._factor

    def __getitem__(self, rows: slice, /) -> NDArray[np.float32]:
        """Return combined frames (view, y, x) of consecutive views. The stored frames of one view are read at once."""
        return self.read_part(rows, slice(0, self.shape[1]), slice(0, self.shape[2]))

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray[np.float32]:
        """Return a rectangle (view, y, x) of the combined frames of consecutive views."""
        start, stop, _ = rows.indices(self.shape[0])
        combined = np.empty((max(0, stop - start), y.stop - y.start, x.stop - x.start), np.float32)
        for at, view in enumerate(range(start, stop)):
            stored = read_part(self.stored, slice(view * self._count, (view + 1) * self._count), y, x)
            combined[at] = stored.mean(axis=0, dtype=np.float64) * self._factor
            if self._limit is not None and self.saturation is not None:
                saturated = (stored >= self._limit).any(axis=0)
                combined[at][saturated] = np.maximum(combined[at][saturated], self.saturation)
        return combined


def combined_frames(
    source: FrameSource, views: int, combination: Combination | None, *, origin: str, saturation: float | None = None
) -> FrameSource:
    """Return the source if it has one frame per view or is a stack, otherwise its combined frames.

    Args:
        source: stored frames (row, y, x).
        views: number of views, including darks and flats.
        combination: how several frames of a view are used; None: they are refused.
        origin: the views and their place, for the error, such as "events in NODE".
        saturation: stored value of a saturated pixel.

    Raises:
        FramesError: the numbers do not match, or no combination is declared.
    """
    rows = source.shape[0]
    if rows == views:
        return source
    if combination is None or not views or rows % views or rows < views:
        fits = bool(views) and rows > views and rows % views == 0
        raise FramesError(
            "Every view needs a frame of its own.",
            got=f"{rows} frames for {views} {origin}.",
            remedy=f"set scan.frames_per_view to mean, sum or stack if {rows // views} consecutive frames belong to "
            "each view."
            if fits
            else "check whether the detector stopped early or the number of events is wrong.",
        )
    return source if combination == "stack" else CombinedFrames(source, rows // views, combination, saturation)
