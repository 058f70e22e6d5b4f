"""A sweep asks for adjoining periods, the newest first."""

import pytest

from bluesky_multislice.listener.sweep_periods import sweep_periods

NOW_S, HOUR_S = 1.8e9, 3600.0


@pytest.mark.parametrize("hours", [-1.0, 0.01, 2.0, 2.1, 24 * 30, 24 * 365 * 20])
def test_periods_cover_everything_since_without_gaps(hours):
    since_s = NOW_S - hours * HOUR_S
    periods = list(sweep_periods(since_s, NOW_S))
    assert periods[0].before_s is None
    assert periods[-1].since_s == since_s
    assert [period.since_s for period in periods[:-1]] == [period.before_s for period in periods[1:]]


def test_a_sweep_after_another_one_is_one_query_and_a_long_history_few():
    assert len(list(sweep_periods(NOW_S - 1.1 * HOUR_S, NOW_S))) == 1
    assert len(list(sweep_periods(NOW_S - 30 * 24 * HOUR_S, NOW_S))) < 12
