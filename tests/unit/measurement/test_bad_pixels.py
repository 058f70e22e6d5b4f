"""Pixels without a measured value are found in the frames; measured ones, however bright or dark, are kept."""

import numpy as np
import pytest

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import Frames
from bluesky_multislice.measurement.bad_pixels import find_bad_pixels

SIDE = 32


def patterns(peak=400.0, views=16, dtype=np.uint32, seed=0):
    """Far-field patterns with a bright middle and outskirts without counts."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE // 2
    mean = peak * np.exp(-np.hypot(y, x) / 3)
    return np.random.default_rng(seed).poisson(mean, (views, SIDE, SIDE)).astype(dtype)


def holograms(views=16, seed=0):
    """Holograms of 1000 counts with fringes that move."""
    x = np.arange(SIDE)
    mean = np.array([1000 + 200 * np.cos(0.8 * x + view) for view in range(views)])[:, None] * np.ones((SIDE, 1))
    return np.random.default_rng(seed).poisson(mean).astype(np.uint32)


def found(stored, *, far_field=True, **more):
    return find_bad_pixels(Frames(stored, **more), far_field=far_field)


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        (np.uint32, 65535, "65535"),
        (np.uint16, 65535, "65535"),
        (np.uint32, 2**32 - 1, "4294967295"),
        (np.uint32, 2**32 - 2, "4294967294"),
        (np.int32, -1, "-1"),
        (np.int16, -2, "-2"),
        (np.float32, -1.0, "-1"),
        (np.float32, np.nan, "no finite value"),
        (np.float64, np.inf, "no finite value"),
    ],
)
@pytest.mark.parametrize("region", [np.s_[:, 9:11], np.s_[20:23, :], np.s_[0:4, 0:4], np.s_[5, 6]])
def test_gaps_and_marked_pixels_are_masked_with_their_value(dtype, value, words, region):
    stored = patterns().astype(dtype)
    stored[(slice(None), *region)] = value
    expected = np.zeros((SIDE, SIDE), bool)
    expected[region] = True
    result = found(stored)
    np.testing.assert_array_equal(result.bad, expected)
    assert words in result.notes[0]
    assert f"{expected.sum()} pixels" in result.notes[0]


@pytest.mark.parametrize(
    ("value", "words"), [(-1.0, "negative"), (np.nan, "NaN or infinite"), (65535.0, "saturated"), (-3.5, "negative")]
)
def test_frames_without_any_valid_pixel_are_refused_with_their_fault(value, words):
    stored = np.full((8, SIDE, SIDE), value, np.float32)
    assert not found(stored).bad.any()
    frames = Frames(stored, saturation=65535.0)
    with pytest.raises(FramesError, match=f"{SIDE * SIDE} {words}"):
        frames.read(np.array([0]))


def test_two_kinds_of_marks_are_told_apart():
    stored = patterns()
    stored[:, :, 9:11], stored[:, 3, 3] = 2**32 - 1, 2**32 - 2
    notes = found(stored).notes
    assert len(notes) == 2
    assert any(note.startswith("1 pixels") for note in notes)


def test_a_mark_in_some_frames_only_is_no_gap():
    stored = patterns()
    stored[:8, :, 9:11] = 2**32 - 1
    assert not found(stored).bad.any()


def test_saturated_light_is_no_gap():
    stored = np.minimum(patterns(peak=5e6), 65535)
    assert (stored == 65535).all(axis=0).sum() > 20
    assert not found(stored).bad.any()


@pytest.mark.parametrize("far_field", [True, False])
def test_dead_pixels_are_masked(far_field):
    stored = holograms()
    stored[:, 10, 10] = stored[:, 20:22, 20:22] = stored[:, 31, 0:2] = 0
    result = found(stored, far_field=far_field)
    assert result.bad.sum() == 7
    assert "7 pixels are dead" in result.notes[0]


@pytest.mark.parametrize("make", [patterns, holograms])
def test_hot_pixels_are_masked(make):
    stored = make()
    hot = [(2, 3), (25, 7), (0, 31)]
    for y, x in hot:
        stored[:, y, x] = np.random.default_rng(1).poisson(40_000, len(stored))
    result = found(stored, far_field=make is patterns)
    assert {tuple(pixel) for pixel in np.argwhere(result.bad)} == set(hot)
    assert "3 pixels are hot" in result.notes[0]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("peak", [5, 400, 1e6])
def test_nothing_measured_is_masked_in_patterns(peak, seed):
    assert not found(patterns(peak=peak, seed=seed)).bad.any()


def test_a_direct_beam_of_one_pixel_is_kept():
    stored = patterns(peak=20)
    stored[:, SIDE // 2 + 1, SIDE // 2 - 2] = 60_000
    assert not found(stored).bad.any()


def test_nothing_measured_is_masked_in_holograms():
    assert not found(holograms(), far_field=False).bad.any()
    assert not found(np.ones((16, SIDE, SIDE), np.float32), far_field=False).bad.any()
    assert not found(np.zeros((16, SIDE, SIDE), np.float32), far_field=False).bad.any()


def test_masked_pixels_and_short_scans_are_not_looked_at():
    stored = patterns()
    stored[:, :, 9:11] = 2**32 - 1
    good = np.ones((SIDE, SIDE), bool)
    good[:, 9:11] = False
    assert found(stored, mask=good).notes == ()
    assert not found(stored[:2]).bad.any()


def test_only_a_sample_of_the_frames_is_read():
    class Counted:
        shape, dtype, read = (1000, SIDE, SIDE), np.dtype(np.uint32), 0

        def __getitem__(self, rows):
            self.read += 1
            return np.ones((rows.stop - rows.start, SIDE, SIDE), np.uint32)

    source = Counted()
    find_bad_pixels(Frames(source), far_field=True)
    assert source.read == 16
