"""Frames are cropped, centred, padded and binned while they are read, and the geometry follows."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import (
    Beam,
    CombinedFrames,
    Detector,
    Frames,
    FrameSteps,
    Orientation,
    Scan,
    ScanGeometry,
    process_frames,
)
from bluesky_multislice.measurement.frames import orient

ALL = np.arange(3)
PITCH = (50e-6, 60e-6)


def scan_of(source, *, regime="far_field", probe=None, focus_m=None, distance_m=None, **options):
    """A scan of three views. Further rows are darks and flats, if ``options`` say so."""
    frames = Frames(source, rows=ALL, **options)
    geometry = ScanGeometry(
        technique="ptychography" if regime == "far_field" else "holography",
        beam=Beam(1e-10, focus_m),
        detector=Detector(frames.shape, PITCH, regime),
        distance_m=np.full(3, 2.0) if distance_m is None else np.array(distance_m),
        angle_rad=np.array([0, 0.5, 1]),
        position_m=np.ones((3, 2)),
    )
    return Scan(geometry, frames, probe)


def stored(shape=(9, 11), rows=3, dtype=np.uint16):
    return np.random.default_rng(0).integers(1, 1000, (rows, *shape)).astype(dtype)


def processed(scan, **steps):
    return process_frames(scan, FrameSteps(**steps))


class Recorder:
    """A source that notes what is read of it."""

    def __init__(self, frames):
        self.frames, self.read = frames, []
        self.shape, self.dtype = frames.shape, frames.dtype

    def __getitem__(self, rows):
        raise AssertionError("whole frames are read")

    def read_part(self, rows, y, x):
        self.read.append((rows, y, x))
        return self.frames[rows, y, x]


@pytest.mark.parametrize("regime", ["far_field", "near_field"])
def test_without_steps_the_scan_stays_as_it_is(regime):
    scan = scan_of(stored(), regime=regime)
    assert processed(scan) is scan


def test_a_region_is_the_part_of_the_stored_frames_whatever_the_orientation():
    source = stored()
    for orientation in get_args(Orientation):
        scan = processed(scan_of(source, orientation=orientation), region=((1, 7), (2, 10)))
        assert np.array_equal(scan.frames.read(ALL), orient(source[:, 1:7, 2:10], orientation))
        assert scan.geometry.detector.shape == scan.frames.shape
        assert scan.geometry.detector.pixel_size_m == PITCH
        assert scan.frames.source.dtype == np.uint16
    (note,) = scan.warnings
    assert "rows 1:7 and columns 2:10 of 9 x 11 stored pixels: 6 x 8 pixels" in note
    assert note in scan.sources["frames"]


def test_only_the_region_is_read_row_by_row():
    source = Recorder(stored((64, 48)))
    scan = processed(scan_of(source), region=((-2, 6), (40, 60)), binning=2)
    assert np.array_equal(
        scan.frames.read(ALL[1:])[:, 1:, :4], source.frames[1:, :6, 40:].reshape(2, 3, 2, 4, 2).sum((2, 4))
    )
    assert source.read == [(slice(row, row + 1), slice(0, 6), slice(40, 48)) for row in (1, 2)]
    several = CombinedFrames(Recorder(stored((64, 48), rows=6)), 2, "sum")
    scan = processed(scan_of(several), region=((0, 8), (40, 48)))
    assert scan.frames.read(ALL).shape == (3, 8, 8)


def test_pixels_outside_of_the_detector_are_masked():
    source = stored((6, 4))
    scan = processed(scan_of(source), region=((-3, 5), (2, 9)))
    expected = np.zeros((8, 7), bool)
    expected[3:8, :2] = True
    assert np.array_equal(scan.frames.mask, expected)
    assert np.array_equal(scan.frames.read(ALL)[:, 3:, :2], source[:, :5, 2:])
    assert "82.1% of the region are outside of the detector and masked" in scan.warnings[-1]


@pytest.mark.parametrize("region", [((20, 30), (0, 5)), ((-8, 0), (0, 5)), ((0, 2), (0, 2))])
def test_a_region_without_a_good_pixel_is_refused(region):
    mask = np.ones((9, 11), bool)
    mask[:2, :2] = False
    with pytest.raises(FramesError, match=r"must contain good pixels.*\(9, 11\).*frames.region"):
        processed(scan_of(stored(), mask=mask), region=region)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("binning", [2, 3])
def test_binned_pixels_of_patterns_are_sums_and_their_pitch_is_larger(dtype, binning):
    source = stored((12, 18), dtype=dtype)
    scan = processed(scan_of(source), binning=binning)
    sums = source.reshape(3, 12 // binning, binning, 18 // binning, binning).sum((2, 4))
    assert np.array_equal(scan.frames.read(ALL), sums)
    assert scan.geometry.detector.shape == sums.shape[1:]
    assert scan.geometry.detector.pixel_size_m == pytest.approx((binning * PITCH[0], binning * PITCH[1]))
    assert scan.geometry.object_pixel_m == pytest.approx(scan_of(source).geometry.object_pixel_m)
    assert f"binned by {binning} (sums)" in scan.sources["pixel_size"]


def test_binned_holograms_are_divided_by_flats_binned_alike():
    frames = np.concatenate([stored((8, 6)) + 2000, stored((8, 6), rows=2) // 8, stored((8, 6), rows=1) + 4000])
    options = {"regime": "near_field", "dark_rows": (3, 4), "flat_rows": (5,)}
    binned = frames.reshape(6, 4, 2, 3, 2).sum((2, 4))
    dark = binned[3:5].mean(0)
    expected = (binned[:3] - dark) / (binned[5] - dark)
    for dtype in (np.uint16, np.float32):
        scan = processed(scan_of(frames.astype(dtype), **options), binning=2)
        np.testing.assert_allclose(scan.frames.read(ALL), expected, rtol=1e-5)


def test_binned_holograms_without_flats_are_sums_of_counts_and_means_of_normalised_ones():
    counts = stored((8, 6))
    sums = counts.reshape(3, 4, 2, 3, 2).sum((2, 4))
    assert np.array_equal(processed(scan_of(counts, regime="near_field"), binning=2).frames.read(ALL), sums)
    combined = CombinedFrames(np.repeat(counts, 2, axis=0), 2, "mean")
    assert np.array_equal(processed(scan_of(combined, regime="near_field"), binning=2).frames.read(ALL), sums)
    normalised = processed(scan_of((counts / 500).astype(np.float32), regime="near_field"), binning=2)
    np.testing.assert_allclose(normalised.frames.read(ALL), sums / 2000, rtol=1e-6)


def test_a_binned_pixel_is_good_if_all_of_its_pixels_are():
    source, mask = stored((4, 6)), np.ones((4, 6), bool)
    mask[1, 2] = mask[3, 5] = False
    source[:, 1, 2] = 65535
    scan = processed(scan_of(source, mask=mask), binning=2)
    assert scan.frames.mask.tolist() == [[True, False, True], [True, True, False]]
    assert scan.frames.read(ALL)[:, 0, 1].tolist() == [0, 0, 0]


def test_a_saturated_or_negative_pixel_is_not_hidden_by_binning():
    source = stored((4, 4))
    source[1, 2, 3] = 65535
    scan = processed(scan_of(source), binning=2)
    with pytest.raises(FramesError, match="1 saturated"):
        scan.frames.read(ALL)
    assert np.argwhere(np.isnan(scan.frames.read(ALL, saturated="mask"))).tolist() == [[1, 1, 1]]
    below = stored((4, 4), dtype=np.int32)
    below[1, 0, 0] = -1
    with pytest.raises(FramesError, match="1 negative"):
        processed(scan_of(below), binning=2).frames.read(ALL)


@pytest.mark.parametrize(
    "steps",
    [{"region": ((0, 6), (0, 5))}, {"centre": (4.0, 4.0), "size": (6, 5)}, {"centre": (4.0, 4.0), "size": (5, 6)}],
)
def test_a_binning_that_does_not_divide_the_size_is_refused(steps):
    with pytest.raises(FramesError, match=r"must divide.*binning = 2.*use 6 x 6 pixels"):
        processed(scan_of(stored()), binning=2, **steps)


@pytest.mark.parametrize("binning", [2, 4, 5])
@pytest.mark.parametrize("shape", [(9, 11), (12, 7)])
def test_whole_frames_lose_the_remaining_pixels(shape, binning):
    scan = processed(scan_of(stored(shape)), binning=binning)
    assert scan.frames.shape == (shape[0] // binning, shape[1] // binning)
    assert scan.frames.mask.all()
    with pytest.raises(FramesError, match="at least one binned pixel"):
        processed(scan_of(stored(shape)), binning=13)


@pytest.mark.parametrize("orientation", get_args(Orientation))
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (6, 9), None])
def test_the_centre_gets_the_index_n_half_of_the_oriented_frame(orientation, size):
    source = np.zeros((3, 15, 20), np.uint16)
    source[:, 6, 13] = 7
    scan = processed(scan_of(source, orientation=orientation), centre=(6.2, 12.8), size=size)
    y, x = scan.frames.shape
    assert sorted((y, x)) == sorted(size or (15, 20))
    assert np.argwhere(scan.frames.read(ALL[:1])[0]).tolist() == [[y // 2, x // 2]]
    assert scan.geometry.detector.shape == (y, x)


@pytest.mark.parametrize("orientation", ["as_is", "flip_yx", "transpose_flip_y"])
@pytest.mark.parametrize("binning", [2, 3, 4])
def test_the_middle_of_the_central_binned_pixel_is_within_half_a_pixel_of_the_centre(orientation, binning):
    source, size = np.zeros((3, 60, 70)), 6 * binning
    source[0], source[1] = np.mgrid[:60, :70]
    scan = processed(scan_of(source, orientation=orientation), centre=(31.3, 33.9), size=(size, size), binning=binning)
    row, column = (scan.frames.read(ALL)[:2, 3, 3]) / binning**2
    assert abs(row - 31.3) <= 0.5
    assert abs(column - 33.9) <= 0.5


@pytest.mark.parametrize("orientation", get_args(Orientation))
def test_the_position_of_a_hologram_follows_the_middle_of_its_region(orientation):
    place = np.stack(np.mgrid[:9, :12]).astype(float)
    source = np.concatenate([place, place[:1]])
    options = {"regime": "near_field", "orientation": orientation, "focus_m": 1.0, "distance_m": [1.0, 3.0, 1.0]}
    whole = scan_of(source, **options)
    part = processed(whole, region=((1, 7), (4, 8)), binning=2, zingers=False)

    def middle(scan):
        """Stored row and column of the middle of the frame, from frames whose values are those."""
        frames = scan.frames.read(ALL[:2])
        return frames.mean((1, 2))

    stored_move = middle(part) - middle(whole)
    flip = [-1 if flipped else 1 for flipped in _flips(orientation)]
    move = stored_move * flip
    move = move[::-1] if orientation.startswith("transpose") else move
    expected = 1 + move * np.array(PITCH) / np.array([[2.0], [4.0], [2.0]])
    np.testing.assert_allclose(part.geometry.position_m, expected)
    assert "positions: moved" in part.warnings[-1]


def _flips(orientation):
    ramp = np.array([[0, 1], [2, 3]])
    back = orient(ramp, orientation)
    back = back.T if orientation.startswith("transpose") else back
    return back[0, 0] > back[1, 0], back[0, 0] > back[0, 1]


def test_positions_of_patterns_stay():
    scan = scan_of(stored((16, 16)))
    part = processed(scan, region=((1, 7), (4, 10)))
    assert part.geometry.position_m is scan.geometry.position_m
    assert part.geometry.object_pixel_m == pytest.approx([16 / 6 * one for one in scan.geometry.object_pixel_m])


def test_a_probe_stays_if_it_fits_the_processed_patterns():
    probe = np.ones((2, 6, 6), np.complex64)
    kept = processed(scan_of(stored((16, 16)), probe=probe), region=((1, 7), (4, 10)))
    assert kept.probe is probe
    assert "taken to be sampled as the processed frames" in kept.warnings[-1]
    dropped = processed(scan_of(stored((16, 16)), probe=np.ones((1, 16, 16), np.complex64)), region=((1, 7), (4, 10)))
    assert dropped.probe is None
    assert "is not used" in dropped.warnings[-1]


def disk(shape, centre, radius, edge=1.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    return 1 / (1 + np.exp((np.hypot(y - centre[0], x - centre[1]) - radius) / edge))


def test_patterns_are_centred_on_the_direct_beam_with_a_note():
    mean = 300 * disk((96, 80), (50.0, 31.0), 9) + 0.2
    source = np.random.default_rng(1).poisson(mean, (3, 96, 80)).astype(np.uint16)
    scan = processed(scan_of(source, orientation="flip_x"), centre="auto", size=(32, 32), binning=2)
    pattern = scan.frames.read(ALL).sum(0)
    index = np.arange(16)
    middle = [float((pattern.sum(1 - axis) * index).sum() / pattern.sum()) for axis in (0, 1)]
    np.testing.assert_allclose(middle, 8, atol=0.3)
    assert "direct beam is at row 50.0, column 31.0 of the mean of 3 frames" in scan.warnings[0]


def test_holograms_have_no_direct_beam():
    with pytest.raises(FramesError, match=r"Only far-field patterns.*frames.region"):
        processed(scan_of(stored(), regime="near_field"), centre="auto")


def test_patterns_with_a_saturated_direct_beam_are_centred():
    mean = 40000 * disk((64, 64), (20.0, 40.0), 6) + 1
    source = np.minimum(np.random.default_rng(1).poisson(mean * 2, (3, 64, 64)), 65535).astype(np.uint16)
    scan = processed(scan_of(source), centre="auto", size=(16, 16))
    assert "row 20.0, column 40.0" in scan.warnings[0]


def test_bad_pixels_can_still_be_masked_and_flats_left_out():
    frames = np.concatenate([stored((8, 8)) + 2000, stored((8, 8), rows=1) + 4000])
    scan = scan_of(frames, regime="near_field", flat_rows=(3,))
    part = processed(scan, region=((2, 8), (0, 6)), zingers=False)
    bad = np.zeros((6, 6), bool)
    bad[2, 3] = True
    assert not part.frames.without(bad).mask[2, 3]
    np.testing.assert_allclose(
        part.frames.undivided().read(ALL), frames[:3, 2:, :6] / frames[3, 2:, :6].mean(), rtol=1e-5
    )
    assert replace(scan, frames=part.frames, geometry=part.geometry).frames.flat(0).shape == (6, 6)
