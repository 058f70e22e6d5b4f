"""Dark-field and flat-field references, in series taken during a scan and interpolated in time.

Shapes: frames (y, x) in the detector's stored orientation; ``row`` is the index of a frame in the source.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

_SAME_POSITION = 1e-6
"""Relative tolerance for equal detector positions; the noise of motor readings is smaller."""

_SAME_EXPOSURE = 0.01
"""Relative tolerance for equal exposure times."""


class Reference:
    """Reference frames of one kind, such as flats: the mean of each series, interpolated in time.

    A series consists of reference frames without a frame of the sample in between.

    Args:
        read: row → stored frame.
        rows: (frame,) rows of this kind.
        when: (row,) time or order of every row of the source.
        views: (view,) rows with frames of the sample.
    """

    def __init__(
        self, read: Callable[[int], NDArray], rows: Sequence[int], when: NDArray[np.float64], views: NDArray[np.intp]
    ) -> None:
        order = np.asarray(rows, np.intp)[np.argsort(when[np.asarray(rows, np.intp)], kind="stable")]
        before = np.searchsorted(np.sort(when[views]), when[order])
        self._series = np.split(order, np.flatnonzero(np.diff(before)) + 1)
        self._read = read
        #: (series,) mean time of each series.
        self.when = np.array([when[series].mean() for series in self._series])
        self._means: dict[int, NDArray[np.float32]] = {}

    def at(self, when: float) -> NDArray[np.float32]:
        """Return the reference (y, x) at a time: linear between two series, constant outside of them."""
        later = int(np.clip(np.searchsorted(self.when, when), 1, max(1, len(self.when) - 1)))
        if len(self.when) == 1:
            return self._mean(0)
        first, last = self.when[later - 1], self.when[later]
        weight = np.float32(np.clip((when - first) / (last - first), 0, 1))
        if weight in (0, 1):
            return self._mean(later - 1 + int(weight))
        return ((1 - weight) * self._mean(later - 1) + weight * self._mean(later)).astype(np.float32)

    def _mean(self, number: int) -> NDArray[np.float32]:
        if number not in self._means:
            rows = self._series[number]
            total = np.zeros(self._read(int(rows[0])).shape)
            for row in rows:
                total += self._read(int(row))
            self._means[number] = (total / len(rows)).astype(np.float32)
        return self._means[number]


class FlatField:
    """The dark and the gain (flat minus dark) for each row of a source.

    Args:
        read: row → stored frame.
        shape: pixels (y, x) of a stored frame.
        views: (view,) rows with frames of the sample.
        dark_rows: rows with darks, used for all detector positions.
        flat_rows: rows with flats, each used for frames at the same detector position.
        when: (row,) time or order of every row.
        detector_position_m: (row,) detector position along the beam; None: one position for all rows.

    Raises:
        FramesError: some detector positions have flats and others have none.
    """

    def __init__(
        self,
        read: Callable[[int], NDArray],
        shape: tuple[int, int],
        *,
        views: NDArray[np.intp],
        dark_rows: Sequence[int],
        flat_rows: Sequence[int],
        when: NDArray[np.float64],
        detector_position_m: NDArray[np.float64] | None,
    ) -> None:
        self._when = when
        self._zero = np.zeros(shape, np.float32)
        self._dark = Reference(read, dark_rows, when, views) if len(dark_rows) else None
        self._place_of = np.zeros(len(when), np.intp)
        if detector_position_m is not None and len(flat_rows):
            self._place_of = _position_index(detector_position_m)
        self._flats: dict[int, Reference] = {}
        for place in np.unique(self._place_of[views]).tolist() if len(flat_rows) else []:
            rows = [row for row in flat_rows if self._place_of[row] == place]
            if not rows:
                raise _without_flat(views[self._place_of[views] == place], detector_position_m)
            self._flats[place] = Reference(read, rows, when, views)

    @property
    def divides(self) -> bool:
        """Whether there are flats."""
        return bool(self._flats)

    def dark(self, row: int) -> NDArray[np.float32]:
        """Return the dark (y, x) at the time of a row; zero if there are no darks."""
        return self._dark_at(self._when[row])

    def gain(self, row: int) -> NDArray[np.float32]:
        """Return the flat minus the dark (y, x) at the time and detector position of a row."""
        return self._flats[int(self._place_of[row])].at(self._when[row]) - self.dark(row)

    def good(self, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the mask (y, x) of those candidate pixels with finite darks and with all flats above the dark.

        Raises:
            FramesError: the sum of a flat is not above that of the dark.
        """
        darks = [] if self._dark is None else [self._dark.at(when) for when in self._dark.when]
        good = np.logical_and.reduce([candidates, *(np.isfinite(dark) for dark in darks)])
        for flat in self._flats.values():
            for when in flat.when:
                gain = flat.at(when) - self._dark_at(when)
                if good.any() and not np.nansum(gain[good], dtype=np.float64) > 0:
                    raise FramesError(
                        "A flat must be brighter than the dark.",
                        got=f"flats of {np.nanmean(flat.at(when)[good]):.4g} and darks of "
                        f"{np.nanmean(self._dark_at(when)[good]):.4g} on average.",
                        remedy="check whether darks and flats are swapped, and whether the shutter was open for flats.",
                    )
                with np.errstate(invalid="ignore"):
                    good &= gain > 0
        return good

    def flat(self, row: int) -> NDArray[np.float32]:
        """Return the flat minus the dark (y, x), averaged over all series at the detector position of a row."""
        series = self._flats[int(self._place_of[row])]
        return np.mean([series.at(when) - self._dark_at(when) for when in series.when], axis=0)

    def _dark_at(self, when: float) -> NDArray[np.float32]:
        return self._zero if self._dark is None else self._dark.at(when)


def check_exposures(seconds: NDArray[np.float64], key: NDArray[np.integer]) -> None:
    """Check that darks and flats have the frames' exposure time, if exposure times are recorded.

    Args:
        seconds: (row,) exposure times; NaN: not recorded.
        key: (row,) 0 frame, 1 flat, 2 dark.

    Raises:
        FramesError: exposure times differ.
    """
    usual = np.nanmedian(seconds[key == 0]) if np.isfinite(seconds[key == 0]).any() else np.nan
    for number, name in ((1, "flats"), (2, "darks")):
        other = seconds[(key == number) & (np.abs(seconds - usual) > _SAME_EXPOSURE * usual)]
        if len(other):
            raise FramesError(
                "Darks and flats must have the exposure time of the frames.",
                got=f"{len(other)} {name} of {other[0]:g} s for frames of {usual:g} s.",
                remedy=f"record {name} with the frames' exposure time, or omit these {name}.",
            )


def detector_positions_differ(detector_position_m: NDArray[np.float64]) -> bool:
    """Return whether the detector positions of frames (frame,) differ; NaN: unknown."""
    known = detector_position_m[np.isfinite(detector_position_m)]
    return bool(len(known)) and bool(np.ptp(known) > _SAME_POSITION * np.abs(known).max())


def _position_index(detector_position_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (row,) the index of each row's detector position; −1: unknown."""
    known = np.isfinite(detector_position_m)
    values = np.unique(detector_position_m[known])
    differs = np.abs(np.diff(values)) > _SAME_POSITION * np.abs(values[1:])
    index_of_value = np.concatenate([[0], np.cumsum(differs)])
    index = np.full(len(detector_position_m), -1)
    index[known] = index_of_value[np.searchsorted(values, detector_position_m[known])]
    return index


def _without_flat(rows: NDArray[np.intp], detector_position_m: NDArray[np.float64] | None) -> FramesError:
    where = "" if detector_position_m is None else f" with the detector at {detector_position_m[rows[0]]:g} m"
    return FramesError(
        "Flats must be taken at every distance of the frames, or at none.",
        got=f"{len(rows)} frames{where} and no flat there.",
        remedy="take flats at every distance and record their distance, or omit the flats or these frames.",
    )
