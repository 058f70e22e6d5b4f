"""Stored frames and events that are not one to one, and energies of Bragg angles."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import (
    FrameRows,
    bragg_energy_ev,
    lattice_spacing_m,
    mean_of_samples,
    rows_by_number,
    rows_by_time,
    rows_of_stack,
)


def test_values_per_event_become_values_per_frame():
    rows = rows_of_stack(6, 3)
    assert_array_equal(rows.per_row(np.array([7, 8, 9])), [7, 7, 8, 8, 9, 9])
    assert_array_equal(rows.per_row(np.arange(6)), np.arange(6))
    assert_array_equal(rows.per_row(np.arange(2)), np.arange(2))
    short = FrameRows(np.arange(4), 9, partial=True)
    assert_array_equal(short.per_row(np.arange(7)), np.arange(4))
    with pytest.raises(FramesError, match="7 frames for 3 events"):
        rows_of_stack(7, 3)


@pytest.mark.parametrize(
    ("numbers", "events", "event"),
    [
        ([501, 502, 504], 4, [0, 1, 3]),
        ([0, 2], 4, [0, 2]),
        ([1, 3], 5, [0, 2]),
        (np.array([0, 1, 3], np.uint64), 4, [0, 1, 3]),
    ],
)
def test_frame_numbers_tell_the_events(numbers, events, event):
    assert_array_equal(rows_by_number(np.array(numbers), events).event, event)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([5, 6, 8], "either end may be missing"),
        ([1, 3, 4], "either end may be missing"),
        ([1, 3, 3], "do not grow"),
        ([1, 2, 9], "span 9 triggers"),
    ],
)
def test_frame_numbers_that_do_not_tell_them_are_refused(numbers, words):
    with pytest.raises(FramesError, match=words):
        rows_by_number(np.array(numbers), 5)


def test_times_tell_the_events_although_the_clocks_differ():
    rng = np.random.default_rng(4)
    event_times_s = np.cumsum(rng.uniform(0.9, 1.4, 40))
    kept = np.setdiff1d(np.arange(40), [3, 4, 17, 39])
    frame_times_s = event_times_s[kept] - 631152000 + rng.normal(0, 1e-3, 36)
    assert_array_equal(rows_by_time(frame_times_s, event_times_s).event, kept)


@pytest.mark.parametrize(("frames", "events"), [([0, 1, 2], range(5)), ([0, 0.5, 1.1], range(5)), ([0], range(3))])
def test_times_that_fit_in_several_ways_or_none_are_refused(frames, events):
    with pytest.raises(FramesError, match="whose times fit in"):
        rows_by_time(np.array(frames, float), np.array(events, float))


def test_means_of_samples():
    assert_array_equal(mean_of_samples(np.arange(6.0), 2), [1, 4])
    assert mean_of_samples(np.arange(7.0), 2) is None


@pytest.mark.parametrize("crystal", ["Si 111", "Si(111)", "Si 1 1 1", " Si111 "])
def test_energy_of_a_bragg_angle(crystal):
    # The powder line 111 of silicon for Cu Kα₁, 8047.8 eV, is at 2θ = 28.442° (NIST SRM 640).
    assert lattice_spacing_m(crystal) == pytest.approx(3.13560e-10, rel=1e-5)
    angles_rad = np.radians([14.221, -14.221])
    assert_allclose(bragg_energy_ev(angles_rad, crystal), 8047.8, rtol=5e-5)


@pytest.mark.parametrize("crystal", ["Si", "Si 000", "Xx 111", "111", "Si -111"])
def test_unknown_crystals_are_refused(crystal):
    with pytest.raises(ValueError, match="unknown crystal"):
        lattice_spacing_m(crystal)
