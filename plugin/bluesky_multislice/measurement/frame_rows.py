"""Pairs stored frames with the events of a scan, if they are not one to one.

A detector may store several frames per event, and it may drop frames. Values are recorded per event or per frame.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError

_MOST_DEVIATION = 0.25
"""Largest deviation of a frame's time from its event's, as a part of the shortest interval of events. A constant delay
is allowed."""

_MOST_NAMED = 10


@dataclass(frozen=True, eq=False)
class FrameRows:
    """The event of each stored frame.

    Attributes:
        event: (row,) index of the event to which a stored frame belongs.
        events: number of events.
        partial: whether the scan ended early, so that recordings may be longer than the frames.
    """

    event: NDArray[np.intp]
    events: int
    partial: bool = False

    def per_row(self, values: NDArray) -> NDArray:
        """Return one value per stored frame (row, …).

        Args:
            values: (n, …), per event or per stored frame. Values of another number are returned as they are.
        """
        if len(values) == len(self.event):
            return values
        if len(values) == self.events or (self.partial and len(values) > self.event.max()):
            return values[self.event]
        return values

    @property
    def dropped_text(self) -> str:
        """The events without a frame, for a warning; empty if there are none."""
        lost = np.setdiff1d(np.arange(self.events), self.event)
        if not lost.size:
            return ""
        named = ", ".join(map(str, lost[:_MOST_NAMED])) + (", …" if lost.size > _MOST_NAMED else "")
        return f"{lost.size} of {self.events} events have no frame and are left out: {named} (counted from 0)"


def rows_of_stack(rows: int, events: int) -> FrameRows:
    """Return the pairing of frames of which the same number of consecutive ones belongs to each event.

    Raises:
        FramesError: the number of frames is no multiple of the number of events.
    """
    if not events or rows % events:
        raise FramesError(
            "Each event must have the same number of frames.",
            got=f"{rows} frames for {events} events.",
            remedy="check whether the detector stopped early or the number of events is wrong.",
        )
    return FrameRows(np.arange(rows) // (rows // events), events)


def rows_by_number(numbers: NDArray, events: int) -> FrameRows:
    """Return the pairing of frames whose numbers count the triggers of the detector.

    The first event is the first number, if the numbers span all events; otherwise it has the number 0 or 1. Numbers
    from 1 to the number of events minus 1 are refused: they may count from 0 or from 1.

    Args:
        numbers: (row,) number of each stored frame.
        events: number of events, each with one trigger.

    Raises:
        FramesError: the numbers do not grow, span more than the events, or do not tell which end is missing.
    """
    counted = np.asarray(numbers, np.float64).astype(np.int64)
    first, last = int(counted[0]), int(counted[-1])
    span = last - first + 1
    if (np.diff(counted) <= 0).any() or span > events:
        problem = "do not grow" if (np.diff(counted) <= 0).any() else f"span {span} triggers"
    elif span < events and (first not in (0, 1) or (first, last) == (1, events - 1)):
        problem = f"start at {first} and span {span} triggers, so that either end may be missing"
    else:
        return FrameRows(counted - (first if span == events else min(first, 1)), events)
    raise FramesError(
        "The numbers of frames must tell which events the detector dropped.",
        got=f"{len(counted)} frames for {events} events, whose numbers {problem}.",
        remedy="reset the detector's frame counter before each scan, or record the times of frames.",
    )


def rows_by_time(frame_times_s: NDArray[np.float64], event_times_s: NDArray[np.float64]) -> FrameRows:
    """Return the pairing of frames with events by their times. The clocks may differ by a constant.

    Args:
        frame_times_s: (row,) time of each stored frame, s.
        event_times_s: (event,) time of each event, s; more than frames.

    Raises:
        FramesError: the times do not fit, or fit in several ways.
    """
    rows, events = len(frame_times_s), len(event_times_s)
    fitting, ways, limit_s = list[tuple[float, NDArray[np.intp]]](), 0, 0.0
    if rows > 1:
        limit_s = _MOST_DEVIATION * float(np.diff(event_times_s).min())
        for first in range(events - rows + 1):
            event = _nearest(frame_times_s - frame_times_s[0] + event_times_s[first], event_times_s)
            delay_s = frame_times_s - event_times_s[event]
            if (np.diff(event) > 0).all() and np.ptp(delay_s) <= 2 * limit_s:
                ways += 1
                fitting = sorted([*fitting, (float(np.ptp(delay_s)), event)], key=lambda one: one[0])[:2]
    if not fitting or (len(fitting) > 1 and fitting[1][0] < 2 * fitting[0][0] + limit_s / 10):
        raise FramesError(
            "The times of frames and events must tell which frames the detector dropped.",
            got=f"{rows} frames for {events} events, whose times fit in {ways} ways.",
            remedy="record the detector's frame numbers, or a position per frame.",
        )
    return FrameRows(fitting[0][1], events)


def _nearest(times_s: NDArray[np.float64], event_times_s: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return (row,) the index of the event that is nearest in time."""
    after = np.clip(np.searchsorted(event_times_s, times_s), 1, len(event_times_s) - 1)
    return after - (times_s - event_times_s[after - 1] < event_times_s[after] - times_s)


def mean_of_samples(values: NDArray[np.float64], frames: int) -> NDArray[np.float64] | None:
    """Return (frame,) the means of the same number of consecutive samples; None if their number is no multiple."""
    if not frames or not len(values) or len(values) % frames:
        return None
    return values.reshape(frames, -1).mean(axis=1)
