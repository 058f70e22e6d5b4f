"""Darks and flats: which frame is corrected by which of them, in memory and through the interchange file."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.errors import FramesError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.measurement import Frames, Scan

DETECTOR = "entry_1/instrument_1/detector_1"
#: image_key and level of each row: a dark, two flats, a frame, two frames, a flat, a frame, and flats at the end.
SERIES = [(2, 2), (1, 11), (1, 13), (0, 60), (0, 60), (0, 60), (1, 32), (0, 60), (1, 52), (1, 52)]


def frames_of(series, shape=(2, 4), **settings):
    key = np.array([kind for kind, _ in series])
    stored = np.stack([np.full(shape, level, np.float32) for _, level in series])
    rows = {
        "rows": np.flatnonzero(key == 0),
        "dark_rows": np.flatnonzero(key == 2).tolist(),
        "flat_rows": np.flatnonzero(key == 1).tolist(),
    }
    return Frames(stored, **(rows | settings))


def levels(frames):
    return frames.read(np.arange(frames.views))[:, 0, 0]


def test_a_frame_between_two_series_of_flats_has_their_mean_by_its_order():
    # Series less the dark: 10 at 1.5, 30 at 6, 50 at 8.5.
    flats = np.interp([3, 4, 5, 7], [1.5, 6, 8.5], [10, 30, 50])
    np.testing.assert_allclose(levels(frames_of(SERIES)), 58 / flats, rtol=1e-6)


def test_times_count_where_they_are_known():
    when = np.array([0, 0, 0, 0.9, 0.5, 0.1, 1, 1.5, 2, 2])
    flats = [10 + 20 * 0.9, 20, 12, 40]
    np.testing.assert_allclose(levels(frames_of(SERIES, when=when)), 58 / np.array(flats), rtol=1e-6)


def test_darks_drift_too():
    np.testing.assert_allclose(levels(frames_of([(2, 0), (0, 10), (0, 10), (2, 6)])), [8, 6])


def test_frames_beyond_the_flats_have_the_nearest():
    np.testing.assert_allclose(levels(frames_of([(0, 8), (1, 4), (0, 8), (1, 2), (0, 8)])), [2, 8 / 3, 4])


def test_a_pixel_that_is_dead_in_one_flat_is_left_out_everywhere():
    frames = frames_of(SERIES)
    frames.source[6, 1, 2] = 1
    np.testing.assert_array_equal(frames.mask, [[True] * 4, [True, True, False, True]])
    assert frames.dead_pixels() == 1


def test_flats_serve_the_frames_of_their_place_and_darks_all():
    series = [(2, 1), (1, 3), (1, 5), (0, 9), (0, 9)]
    place = np.array([np.nan, 0.1, 0.2, 0.2, 0.1])
    np.testing.assert_allclose(levels(frames_of(series, detector_position_m=place)), [2, 4])
    np.testing.assert_allclose(
        levels(frames_of(series)), [8 / 3, 8 / 3], rtol=1e-6
    )  # one series where the place is one


@pytest.mark.parametrize("place", [[0.1, 0.1, 0.2], [np.nan, 0.1, 0.2]])
def test_a_place_without_flats_is_refused(place):
    with pytest.raises(FramesError, match=r"every distance.*1 frames with the detector at 0\.[12] m"):
        frames_of([(1, 3), (0, 9), (0, 9)], detector_position_m=np.array(place))


def test_a_flat_darker_than_the_dark_is_refused():
    with pytest.raises(FramesError, match=r"brighter than the dark.*flats of 2 and darks of 11"):
        levels(frames_of([(2, 11), (1, 2), (0, 9)]))


def test_undivided_frames_keep_the_beam_and_the_flats_tell_it():
    frames = frames_of(SERIES, orientation="flip_x")
    frames.source[1:3, :, 0] = 22
    undivided = frames.undivided()
    assert (frames.divided, undivided.divided) == (True, False)
    # Over the mean of the flats at their times: the first has (20 + 10 + 10 + 10) / 4.
    means = np.interp([3, 4, 5, 7], [1.5, 6, 8.5], [12.5, 30, 50])
    np.testing.assert_allclose(levels(undivided), 58 / means, rtol=1e-6)
    flat = np.array([30, 30, 30, (20 + 30 + 50) / 3])
    np.testing.assert_allclose(undivided.flat(0)[0], flat / flat.mean(), rtol=1e-6)
    with pytest.raises(FramesError, match="flat must have been taken"):
        frames_of([(0, 9)]).flat(0)


def scan_of(series, focus_m=None, **changes):
    geometry = replace(hologram_geometry(n=4, angles=sum(kind == 0 for kind, _ in series)), **changes)
    geometry = replace(geometry, beam=replace(geometry.beam, focus_distance_m=focus_m))
    return geometry


@pytest.mark.parametrize("focus_m", [None, 0.5, (0.3, 0.4)])
def test_times_and_places_of_darks_and_flats_survive_in_the_file(tmp_path, focus_m):
    series = [(1, 2), (0, 9), (2, 0), (0, 9), (1, 4), (1, 1)]
    distance = np.array([0.1, 0.2])
    first, second = distance + (0 if focus_m is None else np.array(focus_m))
    place = np.array([second, first, np.nan, second, second, first])
    frames = frames_of(series, shape=(4, 4), detector_position_m=place, when=np.array([0.0, 1, 0, 3, 4, 5]))
    expected = [9, 9 / (2 + 2 * 3 / 4)]
    np.testing.assert_allclose(levels(frames), expected)
    geometry = scan_of(series, focus_m, distance_m=distance)
    write_scan(tmp_path / "scan.cxi", Scan(geometry, frames))
    read = read_scan(tmp_path / "scan.cxi")
    np.testing.assert_allclose(levels(read.frames), expected, rtol=1e-6)
    np.testing.assert_allclose(read.geometry.distance_m, distance)


def test_flats_do_not_see_the_sample_being_moved_along_a_cone_beam(tmp_path):
    series = [(1, 3), (0, 9), (0, 9)]
    geometry = scan_of(series, (0.3, 0.2), distance_m=np.array([0.1, 0.2]))
    write_scan(tmp_path / "scan.cxi", Scan(geometry, frames_of(series, shape=(4, 4))))
    read = read_scan(tmp_path / "scan.cxi")
    np.testing.assert_allclose(levels(read.frames), [3, 3])
    assert read.geometry.beam.focus_distance_m == (0.3, 0.2)


def test_exposures_in_the_file_are_those_of_the_frames(tmp_path):
    series = [(1, 2), (0, 9), (2, 0), (0, 9)]
    write_scan(tmp_path / "scan.cxi", Scan(scan_of(series), frames_of(series, shape=(4, 4))))
    with h5py.File(tmp_path / "scan.cxi", "a") as file:
        file[f"{DETECTOR}/count_time"] = [0.1, 0.1, 0.3, 0.1]
    with pytest.raises(FramesError, match=r"1 darks of 0.3 s for frames of 0.1 s"):
        read_scan(tmp_path / "scan.cxi")
