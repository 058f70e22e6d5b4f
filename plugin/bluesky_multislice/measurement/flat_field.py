"""Dark and flat frames in series over the time of a scan: what each frame loses, and what it is divided by.

Shapes: frames (y, x) as the detector stored them; rows of a source are numbers.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

_SAME_PLACE = 1e-6
"""Relative difference below which two places of the detector are one; a motor's reading moves by less than it does."""

_SAME_EXPOSURE = 0.01


class Reference:
    """Frames of one kind, such as flats: the mean of each series, and what lies between two of them in time.

    A series is what was taken without a frame of the sample in between.

    Args:
        read: row → the stored frame.
        rows: (frame,) the rows that hold this kind.
        when: (row,) time or order of every row of the source.
        views: (view,) the rows that hold frames of the sample.
    """

    def __init__(
        self, read: Callable[[int], NDArray], rows: Sequence[int], when: NDArray[np.float64], views: NDArray[np.intp]
    ) -> None:
        order = np.asarray(rows, np.intp)[np.argsort(when[np.asarray(rows, np.intp)], kind="stable")]
        before = np.searchsorted(np.sort(when[views]), when[order])
        self._series = np.split(order, np.flatnonzero(np.diff(before)) + 1)
        self._read = read
        #: (series,) when each was taken.
        self.when = np.array([when[series].mean() for series in self._series])
        self._means: dict[int, NDArray[np.float32]] = {}

    def at(self, when: float) -> NDArray[np.float32]:
        """Return the frame (y, x) at a time, between two series by a straight line, beyond them the nearest one."""
        behind = int(np.clip(np.searchsorted(self.when, when), 1, max(1, len(self.when) - 1)))
        if len(self.when) == 1:
            return self._mean(0)
        first, last = self.when[behind - 1], self.when[behind]
        part = np.float32(np.clip((when - first) / (last - first), 0, 1))
        if part in (0, 1):
            return self._mean(behind - 1 + int(part))
        return ((1 - part) * self._mean(behind - 1) + part * self._mean(behind)).astype(np.float32)

    def _mean(self, number: int) -> NDArray[np.float32]:
        if number not in self._means:
            rows = self._series[number]
            total = np.zeros(self._read(int(rows[0])).shape)
            for row in rows:
                total += self._read(int(row))
            self._means[number] = (total / len(rows)).astype(np.float32)
        return self._means[number]


class FlatField:
    """What belongs to each row of a source: the dark, and the flat less the dark.

    Args:
        read: row → the stored frame.
        shape: of a stored frame (y, x).
        views: (view,) rows that hold frames of the sample.
        dark_rows: rows that hold darks, of all places of the detector.
        flat_rows: rows that hold flats; each serves the frames of its place.
        when: (row,) time or order of every row.
        detector_position_m: (row,) where along the beam the detector stood; None is one place.

    Raises:
        FramesError: frames have no flat of their place while others have.
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
        self._nothing = np.zeros(shape, np.float32)
        self._dark = Reference(read, dark_rows, when, views) if len(dark_rows) else None
        self._place_of = np.zeros(len(when), np.intp)
        if detector_position_m is not None and len(flat_rows):
            self._place_of = _numbered(detector_position_m)
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
        """Return the dark (y, x) at the time of a row; zero where there is none."""
        return self._dark_at(self._when[row])

    def gain(self, row: int) -> NDArray[np.float32]:
        """Return the flat less the dark (y, x) at the time and place of a row."""
        return self._flats[int(self._place_of[row])].at(self._when[row]) - self.dark(row)

    def good(self, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return those of some pixels (y, x) whose darks are finite and whose flats all are brighter.

        Raises:
            FramesError: a flat as a whole is not.
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
                        remedy="check whether they are mixed up, and whether the shutter was open for flats.",
                    )
                with np.errstate(invalid="ignore"):
                    good &= gain > 0
        return good

    def flat(self, row: int) -> NDArray[np.float32]:
        """Return the mean flat less the dark (y, x) of all series at a row's place."""
        series = self._flats[int(self._place_of[row])]
        return np.mean([series.at(when) - self._dark_at(when) for when in series.when], axis=0)

    def _dark_at(self, when: float) -> NDArray[np.float32]:
        return self._nothing if self._dark is None else self._dark.at(when)


def check_exposures(seconds: NDArray[np.float64], key: NDArray[np.integer]) -> None:
    """Refuse darks and flats of other exposures than the frames', where these are recorded.

    Args:
        seconds: (row,) exposure times; NaN is not recorded.
        key: (row,) 0 frame, 1 flat, 2 dark.

    Raises:
        FramesError: they differ.
    """
    usual = np.nanmedian(seconds[key == 0]) if np.isfinite(seconds[key == 0]).any() else np.nan
    for number, name in ((1, "flats"), (2, "darks")):
        other = seconds[(key == number) & (np.abs(seconds - usual) > _SAME_EXPOSURE * usual)]
        if len(other):
            raise FramesError(
                "Darks and flats must be exposed as long as the frames.",
                got=f"{len(other)} {name} of {other[0]:g} s for frames of {usual:g} s.",
                remedy=f"take {name} with the frames' exposure, or leave these out.",
            )


def detector_positions_differ(detector_position_m: NDArray[np.float64]) -> bool:
    """Return whether frames (frame,) were taken at several places of the detector; unknown ones are NaN."""
    known = detector_position_m[np.isfinite(detector_position_m)]
    return bool(len(known)) and bool(np.ptp(known) > _SAME_PLACE * np.abs(known).max())


def _numbered(detector_position_m: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (row,) the number of each row's place; places that are unknown are −1."""
    known = np.isfinite(detector_position_m)
    values = np.unique(detector_position_m[known])
    apart = np.abs(np.diff(values)) > _SAME_PLACE * np.abs(values[1:])
    numbers = np.concatenate([[0], np.cumsum(apart)])
    found = np.full(len(detector_position_m), -1)
    found[known] = numbers[np.searchsorted(values, detector_position_m[known])]
    return found


def _without_flat(rows: NDArray[np.intp], detector_position_m: NDArray[np.float64] | None) -> FramesError:
    where = "" if detector_position_m is None else f" with the detector at {detector_position_m[rows[0]]:g} m"
    return FramesError(
        "Flats must be taken at every distance of the frames, or at none.",
        got=f"{len(rows)} frames{where}, where there is no flat.",
        remedy="take flats at every distance and record it with them, or leave out flats or frames.",
    )
