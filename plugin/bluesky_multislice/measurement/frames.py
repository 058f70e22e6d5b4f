"""Measured frames by view: read on demand, checked, corrected and oriented.

Shapes: stored frames (row, y, x) in the detector's orientation; returned frames (view, y, x) float32, with indices that
grow with the coordinates.
"""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement.flat_field import FlatField

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
"""Operation that gives a stored frame indices that grow with y and x: first transpose, then flip."""

Saturated = Literal["refuse", "mask"]
"""Treatment of saturated pixels: refuse the scan, or mask the pixel in its frame."""


class FrameSource(Protocol):
    """A source of stored frames by row: an h5py dataset, a NumPy array, a Tiled array client."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(row, y, x)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Type of a stored pixel."""
        ...

    def __getitem__(self, rows: slice, /) -> NDArray:
        """Return the stored frames of consecutive rows."""
        ...


def orient(stored: NDArray, orientation: Orientation) -> NDArray:
    """Return arrays (..., y, x) whose indices grow with the coordinates.

    Args:
        stored: (..., row, column) in the detector's orientation.
        orientation: one of the eight symmetries of the square.

    Raises:
        FramesError: unknown orientation.
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
    """Return oriented arrays (..., y, x) in the detector's orientation; inverse of ``orient``."""
    flipped = _flip(frames, orientation)
    return np.swapaxes(flipped, -1, -2) if orientation.startswith("transpose") else flipped


def flipped_axes(orientation: Orientation) -> tuple[bool, bool]:
    """Return whether an orientation flips the stored rows, and the stored columns."""
    flips = _flips(orientation)
    rows, columns = "xy" if orientation.startswith("transpose") else "yx"
    return rows in flips, columns in flips


def _flip(frames: NDArray, orientation: Orientation) -> NDArray:
    flips = _flips(orientation)
    axes = tuple(axis for axis, name in ((-2, "y"), (-1, "x")) if name in flips)
    return np.flip(frames, axes) if axes else frames


def _flips(orientation: Orientation) -> str:
    return orientation.rpartition("flip_")[2] if "flip_" in orientation else ""


class Frames:
    """Frames of a scan, by view.

    Args:
        source: stored frames (row, y, x).
        rows: (view,) row of ``source`` with each view; None: in order.
        dark_rows: rows of ``source`` with darks, which are subtracted.
        flat_rows: rows of ``source`` with flats; frames are divided by flat minus dark. Between two series of flats the
            flat is interpolated in time.
        mask: (y, x) in the stored orientation, True for good pixels; None: all pixels are good.
        orientation: operation that orients stored frames.
        saturation: stored value at and above which a pixel is saturated; None: the largest value of an integer type.
        when: (row,) time of every row of ``source``; None: the order of the rows.
        detector_position_m: (row,) detector position along the beam, which selects the flats; None: one position for
            all rows. Darks are used for all positions.

    Attributes:
        divided: whether frames are divided by the flats pixel by pixel.
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
        when: NDArray[np.float64] | None = None,
        detector_position_m: NDArray[np.float64] | None = None,
    ) -> None:
        if len(source.shape) != 3:
            raise FramesError(
                "Frames must be an array (view, y, x).", got=f"shape {source.shape}.", remedy="select another dataset."
            )
        if np.dtype(source.dtype).kind not in "buif":
            raise FramesError(
                "Frames must be measured intensities: real numbers.",
                got=f"{'complex values' if np.dtype(source.dtype).kind == 'c' else 'values'} of type {source.dtype}.",
                remedy="give the detector's frames; exit waves and other complex fields are not measured.",
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
        row_count = max(source.shape[0], int(self.rows.max(initial=0)) + 1)
        self.when = np.arange(row_count, dtype=float) if when is None else np.asarray(when, float)
        self.detector_position_m = detector_position_m
        self._field = FlatField(
            self._stored,
            (source.shape[1], source.shape[2]),
            views=self.rows,
            dark_rows=self.dark_rows,
            flat_rows=self.flat_rows,
            when=self.when,
            detector_position_m=detector_position_m,
        )
        self.divided = self._field.divides
        self.orientation: Orientation = orientation
        if saturation is None and np.issubdtype(source.dtype, np.integer):
            saturation = float(np.iinfo(source.dtype).max)
        self.saturation = saturation

    def dead_pixels(self) -> int:
        """Read darks and flats, and return the number of pixels that they exclude in addition to the mask.

        Raises:
            FramesError: a flat is not brighter than the dark, or no good pixel is left.
        """
        return int(self.stored_mask.sum() - self._good.sum())

    def without(self, bad: NDArray[np.bool_]) -> "Frames":
        """Return the same frames with further pixels (y, x) in the stored orientation masked."""
        return self.with_source(self.source, mask=self.stored_mask & ~bad, saturation=self.saturation)

    def with_source(self, source: FrameSource, *, mask: NDArray[np.bool_], saturation: float | None) -> "Frames":
        """Return frames with the same rows, darks and flats, read from another source.

        Args:
            source: stored frames (row, y, x) with the same rows.
            mask: (y, x) in the stored orientation, True for good pixels.
            saturation: stored value at and above which a pixel is saturated.
        """
        return Frames(
            source,
            rows=self.rows,
            dark_rows=self.dark_rows,
            flat_rows=self.flat_rows,
            mask=mask,
            orientation=self.orientation,
            saturation=saturation,
            when=self.when,
            detector_position_m=self.detector_position_m,
        )

    def undivided(self) -> "Frames":
        """Return the same frames divided by the mean value of the flat only, so that they keep the beam's structure.

        Pixels that are dead in a flat remain excluded.
        """
        other = copy.copy(self)
        other.divided = False
        return other

    def flat(self, view: int) -> NDArray[np.float32]:
        """Return the flat minus the dark (y, x) at a view's detector position, scaled to mean 1; zero in bad pixels.

        Raises:
            FramesError: there are no flats.
        """
        if not self.flat_rows:
            raise FramesError("A flat must have been taken.", got="none.", remedy="omit illumination in the recipe.")
        flat = np.where(self._good, self._field.flat(int(self.rows[view])), 0)
        return np.ascontiguousarray(orient(flat / flat[self._good].mean(), self.orientation), dtype=np.float32)

    def dark(self, row: int) -> NDArray[np.float32]:
        """Return the dark (y, x) at the time of a row of the source, in the stored orientation; zero without darks."""
        return self._field.dark(row)

    @cached_property
    def _good(self) -> NDArray[np.bool_]:
        good = self._field.good(self.stored_mask)
        if not good.any():
            raise FramesError(
                "At least one detector pixel must be good.",
                got="a mask, or a flat without intensity, that excludes every pixel.",
                remedy="check the mask's convention: in CXI 0 means good.",
            )
        return good

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """(y, x) oriented, True for good pixels."""
        return np.ascontiguousarray(orient(self._good, self.orientation))

    def _stored(self, row: int) -> NDArray:
        return self.source[row : row + 1][0]

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

    def read(
        self, views: NDArray[np.intp], *, saturated: Saturated = "refuse", kept: slice = slice(None)
    ) -> NDArray[np.float32]:
        """Return frames (view, y, x), float32, corrected and oriented, zero in masked pixels.

        Args:
            views: (view,) indices of the views, in any order.
            saturated: ``refuse`` raises for saturated good pixels, ``mask`` returns NaN for them.
            kept: rows of the oriented frames to return; every frame is read and checked as a whole.

        Raises:
            FramesError: a good pixel is NaN, infinite, negative or (with ``refuse``) saturated, or the file is shorter
                than the scan.
        """
        views = np.asarray(views, np.intp)
        rows, columns = self.shape
        frames = np.empty((len(views), len(range(rows)[kept]), columns), np.float32)
        for at, (view, row) in enumerate(zip(views.tolist(), self.rows[views].tolist(), strict=True)):
            frames[at] = orient(self._corrected(self._read_row(row, view, saturated), row), self.orientation)[kept]
        return frames

    def _corrected(self, stored: NDArray, row: int) -> NDArray[np.float32]:
        frame = stored.astype(np.float32)
        if self.dark_rows:
            frame = np.maximum(frame - self._field.dark(row), 0.0)
        if self._field.divides:
            gain = self._field.gain(row)
            frame /= np.where(self._good, gain, 1.0) if self.divided else gain[self._good].mean()
        frame[~self._good] = 0.0
        return frame

    def _read_row(self, row: int, view: int, saturated: Saturated) -> NDArray:
        try:
            frame = np.asarray(self.source[row : row + 1])
        except OSError as error:
            raise FramesError(
                "Every frame of the scan must be readable.",
                got=f"view {view} (row {row} of the file): {error}.",
                remedy="the detector file is truncated or damaged: restore it, or omit those views.",
            ) from error
        if frame.shape[0] != 1:
            raise FramesError(
                "Every view needs a frame.",
                got=f"view {view} points at row {row} of {self.source.shape[0]}.",
                remedy="check the detector's file: it has fewer frames than the scan has events.",
            )
        good = frame[0][self._good]
        checks = [("NaN or infinite", ~np.isfinite(good)), ("negative", good < 0)]
        if self.saturation is not None and saturated == "refuse":
            checks.append((f"saturated (≥ {self.saturation:g})", good >= self.saturation))
        for fault, bad in checks:
            if bad.any():
                raise FramesError(
                    "Good pixels must have finite, non-negative, unsaturated values.",
                    got=f"{int(bad.sum())} {fault} pixels in view {view}.",
                    remedy="exclude those pixels with the detector's mask, or those views from the scan; exclude "
                    "saturated pixels with the recipe's saturated = mask.",
                )
        if self.saturation is None or saturated == "refuse":
            return frame[0]
        return np.where(frame[0] >= self.saturation, np.nan, frame[0])
