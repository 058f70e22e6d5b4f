import h5py
import numpy as np
import pytest

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.measurement.frames import orient

ALL = np.arange(3)


def stored_frames(dtype=np.uint16):
    return np.arange(3 * 2 * 4, dtype=dtype).reshape(3, 2, 4)


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        ("as_is", [[0, 1, 2], [3, 4, 5]]),
        ("flip_y", [[3, 4, 5], [0, 1, 2]]),
        ("flip_x", [[2, 1, 0], [5, 4, 3]]),
        ("flip_yx", [[5, 4, 3], [2, 1, 0]]),
        ("transpose", [[0, 3], [1, 4], [2, 5]]),
        ("transpose_flip_y", [[2, 5], [1, 4], [0, 3]]),
        ("transpose_flip_x", [[3, 0], [4, 1], [5, 2]]),
        ("transpose_flip_yx", [[5, 2], [4, 1], [3, 0]]),
    ],
)
def test_orientation_is_undone_on_frames_and_mask(orientation, expected):
    stored = np.arange(6.0, dtype=np.float32).reshape(1, 2, 3)
    frames = Frames(stored, orientation=orientation, mask=stored[0] != 1)
    without = np.where(np.asarray(expected) == 1, 0, expected)
    assert orient(stored, orientation)[0].tolist() == expected
    assert frames.shape == np.shape(expected)
    assert frames.read(np.array([0]))[0].tolist() == without.tolist()
    assert frames.mask.tolist() == (np.asarray(expected) != 1).tolist()


def test_unknown_orientation_is_refused():
    with pytest.raises(FramesError, match=r"one of the eight symmetries.*'sideways'"):
        orient(np.zeros((2, 2)), "sideways")  # pyright: ignore[reportArgumentType]


def test_views_come_in_any_order_as_float32():
    read = Frames(stored_frames()).read(np.array([2, 0]))
    assert read.dtype == np.float32
    assert np.array_equal(read, stored_frames()[[2, 0]])


def test_rows_say_where_each_view_lies():
    frames = Frames(stored_frames(), rows=np.array([2, 1]))
    assert frames.views == 2
    assert np.array_equal(frames.read(np.array([0, 1])), stored_frames()[[2, 1]])


def test_dark_is_subtracted_and_never_leaves_negative_values():
    stored = np.array([[[5.0, 1.0]], [[1.0, 2.0]], [[3.0, 4.0]]])
    frames = Frames(stored, rows=np.array([0]), dark_rows=(1, 2))
    assert frames.read(np.array([0])).tolist() == [[[3.0, 0.0]]]


def test_flat_less_dark_is_divided_out_and_pixels_without_light_are_excluded():
    stored = np.array([[[5.0, 9.0, 7.0]], [[1.0, 1.0, 1.0]], [[3.0, 5.0, 1.0]]])
    frames = Frames(stored, rows=np.array([0]), dark_rows=(1,), flat_rows=(2,))
    assert frames.read(np.array([0])).tolist() == [[[2.0, 2.0, 0.0]]]
    assert frames.mask.tolist() == [[True, True, False]]


def test_pixels_that_the_dark_does_not_know_are_excluded():
    stored = np.array([[[5.0, 9.0]], [[np.nan, 1.0]]])
    frames = Frames(stored, rows=np.array([0]), dark_rows=(1,))
    assert frames.read(np.array([0])).tolist() == [[[0.0, 8.0]]]
    assert frames.mask.tolist() == [[False, True]]


@pytest.mark.parametrize(
    ("value", "what"),
    [(np.nan, "NaN or infinite"), (np.inf, "NaN or infinite"), (-1.0, "negative"), (100.0, "saturated")],
)
def test_bad_pixel_is_refused_unless_masked(value, what):
    stored = stored_frames(np.float64)
    stored[1, 0, 2] = value
    frames = Frames(stored, saturation=100.0)
    frames.read(np.array([0, 2]))
    with pytest.raises(FramesError, match=f"1 {what}.*view 1"):
        frames.read(ALL)
    mask = np.ones((2, 4), bool)
    mask[0, 2] = False
    assert (Frames(stored, saturation=100.0, mask=mask).read(ALL)[:, 0, 2] == 0).all()


def test_integer_frames_saturate_at_the_largest_value_of_their_type():
    stored = stored_frames()
    stored[2, 1, 1] = 65535
    with pytest.raises(FramesError, match=r"saturated.*65535.*view 2"):
        Frames(stored).read(ALL)
    assert Frames(stored, saturation=1e9).read(ALL)[2, 1, 1] == 65535


def test_missing_frame_is_refused():
    with pytest.raises(FramesError, match=r"Every view needs a frame.*view 1 points at row 3 of 3"):
        Frames(stored_frames(), rows=np.array([0, 3])).read(np.array([0, 1]))


def test_damaged_file_is_refused(tmp_path):
    path = tmp_path / "detector.h5"
    with h5py.File(path, "w") as file:
        noise = np.random.default_rng(1).integers(0, 999, (3, 32, 32), np.uint16)
        dataset = file.create_dataset("frames", data=noise, chunks=(1, 32, 32), compression="gzip")
        chunk = dataset.id.get_chunk_info(1)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(bytes(chunk.size))
    with h5py.File(path) as file:
        frames = Frames(file["frames"])
        frames.read(np.array([0, 2]))
        with pytest.raises(FramesError, match=r"Every frame of the scan must be readable.*view 1"):
            frames.read(ALL)


def test_frames_have_three_axes():
    with pytest.raises(FramesError, match=r"array \(view, y, x\)"):
        Frames(np.zeros((3, 1, 4, 4)))


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_complex_frames_are_refused(dtype):
    with pytest.raises(FramesError, match=r"real numbers.*complex"):
        Frames(stored_frames().astype(dtype))


def test_mask_has_the_shape_of_a_frame():
    with pytest.raises(FramesError, match=r"mask must have the shape.*\(4, 2\)"):
        Frames(stored_frames(), mask=np.ones((4, 2), bool))


def test_mask_leaves_a_good_pixel():
    with pytest.raises(FramesError, match="At least one detector pixel"):
        Frames(stored_frames(), mask=np.zeros((2, 4), bool)).read(ALL)


def test_size_counts_stored_bytes():
    assert Frames(stored_frames(), rows=np.array([0, 1])).bytes_stored == 2 * 2 * 4 * 2


@pytest.mark.parametrize(
    ("views", "shape", "fault"), [(2, (2, 4), "as many frames as views"), (3, (4, 2), "detector's shape")]
)
def test_scan_refuses_frames_of_another_geometry(views, shape, fault):
    geometry = ScanGeometry(
        "holography",
        Beam(1e-10),
        Detector(shape, (1e-6, 1e-6), "near_field"),
        np.ones(views),
        np.zeros(views),
        np.zeros((views, 2)),
    )
    with pytest.raises(ScanError, match=fault):
        Scan(geometry, Frames(stored_frames()))


def test_saturated_pixels_may_come_as_nan_but_nothing_else_may():
    stored = stored_frames(np.float64)
    stored[1, 0, 2] = 100.0
    frames = Frames(stored, saturation=100.0, orientation="flip_x")
    lost = np.isnan(frames.read(ALL, saturated="mask"))
    assert np.argwhere(lost).tolist() == [[1, 0, 1]]
    stored[2, 1, 1] = np.nan
    with pytest.raises(FramesError, match=r"NaN or infinite.*view 2"):
        frames.read(ALL, saturated="mask")
