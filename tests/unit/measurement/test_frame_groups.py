"""Several frames per view: never paired silently, and combined as declared."""

import numpy as np
import pytest

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import CombinedFrames, Frames, combined_frames

STORED = np.arange(6 * 2 * 3, dtype=np.uint16).reshape(6, 2, 3)


def test_one_frame_per_view_is_left_as_it_is():
    assert combined_frames(STORED, 6, None, origin="views in here") is STORED
    assert combined_frames(STORED, 6, "sum", origin="views in here") is STORED
    assert combined_frames(STORED, 3, "stack", origin="views in here") is STORED


@pytest.mark.parametrize(
    ("views", "combination", "remedy"),
    [(2, None, "frames_per_view"), (4, "mean", "stopped early"), (7, None, "stopped early"), (12, "sum", "stopped")],
)
def test_numbers_that_do_not_pair_are_both_named(views, combination, remedy):
    with pytest.raises(FramesError, match=rf"6 frames for {views} views in here.*{remedy}"):
        combined_frames(STORED, views, combination, origin="views in here")


@pytest.mark.parametrize("combination", ["mean", "sum"])
def test_consecutive_frames_are_combined(combination):
    source = combined_frames(STORED, 2, combination, origin="views in here")
    expected = getattr(np, combination)(STORED.reshape(2, 3, 2, 3), axis=1)
    np.testing.assert_array_equal(source[0:2], expected)
    np.testing.assert_array_equal(source[1:2], expected[1:])
    assert source[2:5].shape == (0, 2, 3)


@pytest.mark.parametrize("combination", ["mean", "sum"])
def test_a_pixel_that_is_saturated_in_one_frame_is_saturated(combination):
    stored = STORED.copy()
    stored[1, 0, 2] = 65535
    source = CombinedFrames(stored, 3, combination)
    frames = Frames(source, saturation=source.saturation)
    with pytest.raises(FramesError, match=r"1 saturated.*view 0"):
        frames.read(np.array([0]))
    frames.read(np.array([1]))
