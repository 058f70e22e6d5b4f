"""Measured frames by view: read when asked for, corrected, oriented and checked on the way.

Shapes: stored frames (row, y, x) as the detector wrote them; frames out (view, y, x) float32 with the index growing
with the coordinate.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

Orientation = Literal[
    "as_is",
    "flip_y",
    "flip_x",
    "flip_yx",
    "transpose",
    "transpose_flip_y",
    "transpose_flip_x",
    "transpose_flip_yx",
]
"""What turns a stored frame into one whose index grows with y and x: first transpose, then flip."""

Saturated = Literal["refuse", "mask"]
"""What a saturated pixel means: a scan that cannot be used, or a pixel that is left out in its frame."""


class FrameSource(Protocol):
    """Anything that gives stored frames by row: an h5py dataset, a NumPy array, a Tiled array client."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(row, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored pixel."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Stored frames of consecutive rows."""
        ...


def orient(stored: NDArray, orientation: Orientation) -> NDArray:
    """Return arrays (..., y, x) whose index grows with the coordinate.

    Args:
        stored: (..., row, column) as the detector wrote it.
        orientation: one of the eight symmetries of the square.
    """
    if orientation not in get_args(Orientation):
        raise FramesError(
            "The detector orientation must be one of the eight symmetries of the square.",
            got=f"{orientation!r}.",
            remedy=f"use one of {', '.join(get_args(Orientation))}.",
        )
    if orientation.startswith("transpose"):
        stored = np.swapaxes(stored, -1, -2)
    return _flip(stored, orientation)


def unorient(frames: NDArray, orientation: Orientation) -> NDArray:
    """Return oriented arrays (..., y, x) as a detector of this orientation stores them; undoes ``orient``."""
    flipped = _flip(frames, orientation)
    return np.swapaxes(flipped, -1, -2) if orientation.startswith("transpose") else flipped


def _flip(frames: NDArray, orientation: Orientation) -> NDArray:
    flips = orientation.rpartition("flip_")[2] if "flip_" in orientation else ""
    axes = tuple(axis for axis, name in ((-2, "y"), (-1, "x")) if name in flips)
    return np.flip(frames, axes) if axes else frames


class Frames:
    """Frames of a scan, by view.

    Args:
        source: stored frames (row, y, x).
        rows: (view,) row of ``source`` that holds each view; None takes them in order.
        dark_rows: rows of ``source`` whose mean is subtracted.
        flat_rows: rows of ``source`` whose mean, less the dark, is divided out.
        mask: (y, x) stored orientation, True where the pixel is good; None is all good.
        orientation: how stored frames turn into oriented ones.
        saturation: stored value from which a pixel counts as saturated; None takes an integer type's largest value.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        rows: NDArray[np.intp] | None = None,
        dark_rows: Sequence[int] = (),
        flat_rows: Sequence[int] = (),
        mask: NDArray[np.bool_] | None = None,
        orientation: Orientation = "as_is",
        saturation: float | None = None,
    ) -> None:
        if len(source.shape) != 3:
            raise FramesError(
                "Frames must be an array (view, y, x).", got=f"shape {source.shape}.", remedy="name the right dataset."
            )
        if mask is not None and mask.shape != tuple(source.shape[1:]):
            raise FramesError(
                "The mask must have the shape of a frame.",
                got=f"{mask.shape} for frames of {tuple(source.shape[1:])}.",
                remedy="record the mask with the same region of interest and binning as the frames.",
            )
        self.source = source
        self.rows = np.arange(source.shape[0]) if rows is None else np.asarray(rows)
        self.dark_rows, self.flat_rows = tuple(dark_rows), tuple(flat_rows)
        self.stored_mask = np.ones(source.shape[1:], bool) if mask is None else np.asarray(mask, bool)
        self.orientation: Orientation = orientation
        if saturation is None and np.issubdtype(source.dtype, np.integer):
            saturation = float(np.iinfo(source.dtype).max)
        self.saturation = saturation

    @cached_property
    def _dark(self) -> NDArray[np.float32]:
        return self._mean(self.dark_rows) if self.dark_rows else np.zeros(self.source.shape[1:], np.float32)

    @cached_property
    def _gain(self) -> NDArray[np.float32] | None:
        return self._mean(self.flat_rows) - self._dark if self.flat_rows else None

    @cached_property
    def _good(self) -> NDArray[np.bool_]:
        good = self.stored_mask & np.isfinite(self._dark)
        if self._gain is not None:
            good &= self._gain > 0
        if not good.any():
            raise FramesError(
                "At least one detector pixel must be good.",
                got="a mask, or a flat without light, that excludes every pixel.",
                remedy="check the mask's sense: in CXI 0 means good.",
            )
        return good

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(y, x) oriented, True where the pixel is good."""
        return np.ascontiguousarray(orient(self._good, self.orientation))

    def _mean(self, rows: Sequence[int]) -> NDArray[np.float32]:
        stored = np.concatenate([self.source[row : row + 1] for row in rows])
        return stored.mean(axis=0, dtype=np.float64).astype(np.float32)

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Oriented frame shape (y, x)."""
        ny, nx = self.source.shape[1:]
        return (nx, ny) if self.orientation.startswith("transpose") else (ny, nx)

    @property
    def bytes_stored(self) -> int:
        """Size of all views as stored, uncompressed."""
        return self.views * int(np.prod(self.shape)) * self.source.dtype.itemsize

    def read(self, views: NDArray[np.intp], *, saturated: Saturated = "refuse") -> NDArray[np.float32]:
        """Return frames (view, y, x), float32, corrected and oriented, zero where the mask excludes a pixel.

        Args:
            views: (view,) which views, in any order.
            saturated: ``mask`` gives NaN where a good pixel is saturated.

        Raises:
            FramesError: a good pixel is NaN, infinite, negative or saturated, unless these are masked, or the file is
                shorter than the scan.
        """
        views = np.asarray(views, np.intp)
        ny, nx = self.source.shape[1:]
        stored = np.empty((len(views), ny, nx), np.float32)
        for at, row in enumerate(self.rows[views]):
            stored[at] = self._read_row(int(row), int(views[at]), saturated)
        if self.dark_rows:
            stored = np.maximum(stored - self._dark, 0.0)
        if self._gain is not None:
            stored = stored / np.where(self._good, self._gain, 1.0)
        stored[:, ~self._good] = 0.0
        return np.ascontiguousarray(orient(stored, self.orientation), dtype=np.float32)

    def _read_row(self, row: int, view: int, saturated: Saturated) -> NDArray:
        try:
            frame = np.asarray(self.source[row : row + 1])
        except OSError as error:
            raise FramesError(
                "Every frame of the scan must be readable.",
                got=f"view {view} (row {row} of the file): {error}.",
                remedy="the detector file is truncated or damaged: restore it, or leave those views out.",
            ) from error
        if frame.shape[0] != 1:
            raise FramesError(
                "Every view needs a frame.",
                got=f"view {view} points at row {row} of {self.source.shape[0]}.",
                remedy="the detector wrote fewer frames than the scan has events: check the detector's file.",
            )
        good = frame[0][self._good]
        checks = [("NaN or infinite", ~np.isfinite(good)), ("negative", good < 0)]
        if self.saturation is not None and saturated == "refuse":
            checks.append((f"saturated (≥ {self.saturation:g})", good >= self.saturation))
        for what, bad in checks:
            if bad.any():
                raise FramesError(
                    "Good pixels must hold finite, non-negative, unsaturated values.",
                    got=f"{int(bad.sum())} {what} pixels in view {view}.",
                    remedy="exclude those pixels with the detector's mask, or those views from the scan; leave "
                    "saturated ones out with the recipe's saturated = mask.",
                )
        if self.saturation is None or saturated == "refuse":
            return frame[0]
        return np.where(frame[0] >= self.saturation, np.nan, frame[0])
