"""The small grey picture beside a volume."""

import h5py
import numpy as np
from PIL import Image

from bluesky_multislice.files import preview, write_preview


def preview_of(tmp_path, volume):
    with h5py.File(tmp_path / "volume.h5", "w") as file:
        return preview(file.create_dataset("delta", data=volume))


def test_it_shows_the_three_central_slices_from_black_to_white(tmp_path):
    volume = np.zeros((4, 6, 8), np.float32)
    volume[2, 3, 4] = 1e-5
    grey = preview_of(tmp_path, volume)
    assert grey.shape == ((6 + 2) + (4 + 2) + (4 + 2), 8)
    assert (grey.dtype, grey[3, 4], grey[0, 0]) == (np.uint8, 255, 0)
    assert [grey[8 + 2, 4], grey[14 + 2, 3]] == [255, 255]


def test_a_large_volume_is_thinned_out_and_a_flat_one_is_black(tmp_path):
    grey = preview_of(tmp_path, np.full((2, 3, 1500), np.nan, np.float32))
    assert grey.shape[1] == 500
    assert grey.max() == 0


def test_a_job_leaves_it_as_a_png_large_enough_to_be_seen(tmp_path):
    volume = np.random.default_rng(1).random((4, 6, 8)).astype(np.float32)
    write_preview(tmp_path / "preview.png", [volume[2], volume[:, :, 4]])
    with Image.open(tmp_path / "preview.png") as picture:
        found = np.asarray(picture)
    assert found.shape == (32 * ((6 + 2) + (4 + 2)), 32 * 8)
    np.testing.assert_array_equal(found[16:256:32, 16::32], preview_of(tmp_path, volume)[:8])
    np.testing.assert_array_equal(found[:32, :32], found[0, 0])
    assert not list(tmp_path.glob("*.part"))
