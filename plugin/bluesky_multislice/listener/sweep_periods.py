"""The periods in which a sweep asks the catalogue for runs: queries are bounded, and new runs come before old ones."""

from collections.abc import Iterator

from bluesky_multislice.listener.wanted import Period

_FIRST_S = 2 * 3600.0
"""Length of the newest period, s. A sweep that follows another one needs only this period."""
_LONGEST_S = 30 * 86400.0


def sweep_periods(since_s: float, now_s: float) -> Iterator[Period]:
    """Yield adjoining periods, the newest first, each twice as long as the one before, at most 30 days.

    The newest one has no end, because the clock of the beamline may be ahead.

    Args:
        since_s: begin of the oldest period, s since 1970.
        now_s: the present time, s since 1970.
    """
    length_s, before_s, begin_s = _FIRST_S, None, now_s - _FIRST_S
    while begin_s > since_s:
        yield Period(begin_s, before_s)
        length_s = min(2 * length_s, _LONGEST_S)
        before_s, begin_s = begin_s, begin_s - length_s
    yield Period(since_s, before_s)
