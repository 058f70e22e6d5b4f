"""Frames of several sources as one: views, then darks and flats.

Shapes: sources and joined frames are (row, y, x).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.frame_window import read_part
from bluesky_multislice.measurement.frames import FrameSource


class JoinedFrames:
    """Concatenated frames of several sources.

    Args:
        sources: the sources; the first one has the views.

    Attributes:
        sources: the sources.

    Raises:
        FramesError: the frames differ in shape.
    """

    def __init__(self, sources: Sequence[FrameSource]) -> None:
        self.sources = tuple(sources)
        shapes = [tuple(source.shape[1:]) for source in sources]
        if len(set(shapes)) != 1:
            raise FramesError(
                "Darks, flats and frames of a scan must have one shape.",
                got=" and ".join(str(shape) for shape in dict.fromkeys(shapes)) + ".",
                remedy="take darks and flats with the region of interest and binning of the frames, or omit them.",
            )
        self._starts = np.cumsum([0, *(source.shape[0] for source in sources)])
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *shapes[0])
        self.dtype: np.dtype = np.result_type(*(source.dtype for source in sources))

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return frames (row, y, x) of consecutive rows."""
        return self.read_part(rows, slice(0, self.shape[1]), slice(0, self.shape[2]))

    def read_part(self, rows: slice, y: slice, x: slice) -> NDArray:
        """Return a rectangle (row, y, x) of consecutive rows."""
        start, stop, _ = rows.indices(self.shape[0])
        parts = [np.empty((0, y.stop - y.start, x.stop - x.start), self.dtype)]
        for source, begin in zip(self.sources, self._starts, strict=False):
            low, high = max(start - begin, 0), min(stop - begin, source.shape[0])
            if low < high:
                parts.append(read_part(source, slice(low, high), y, x).astype(self.dtype))
        return np.concatenate(parts)
