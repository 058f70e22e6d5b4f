"""A former volume on other voxels keeps its projected phase."""

import numpy as np
import pytest

from bluesky_multislice.reconstruction.start.former_values import resampled_means


def edges(cells, pitch, center=0.0):
    return center + (np.arange(cells + 1) - cells / 2) * pitch


@pytest.mark.parametrize("cells", [5, 7, 16, 33])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_sum_over_any_cells_that_cover_the_line_is_kept(cells, axis):
    values = np.random.default_rng(1).random((6, 8, 9)).astype(np.float32)
    n = values.shape[axis]
    onto = edges(cells, 1.3 * n / cells, 0.07 * n)
    means = resampled_means(values, edges(n, 1.0), onto, axis)
    assert means.shape[axis] == cells
    assert means.min() >= 0
    np.testing.assert_allclose(means.sum(axis) * 1.3 * n / cells, values.sum(axis), rtol=1e-5)


def test_coarser_cells_have_the_mean_and_finer_cells_keep_it():
    values = np.random.default_rng(2).random((12, 3)).astype(np.float32)
    coarse = resampled_means(values, edges(12, 1.0), edges(4, 3.0), 0)
    np.testing.assert_allclose(coarse, values.reshape(4, 3, 3).mean(1), rtol=1e-5)
    fine = resampled_means(values, edges(12, 1.0), edges(24, 0.5), 0)
    np.testing.assert_allclose(fine.reshape(12, 2, 3).mean(1), values, rtol=1e-5)


def test_finer_cells_follow_a_smooth_line():
    line = np.exp(-np.square((np.arange(20) - 9.5) / 4))
    fine = resampled_means(line, edges(20, 1.0), edges(40, 0.5), 0)
    expected = np.exp(-np.square((np.arange(40) / 2 - 9.75) / 4))
    assert np.abs(fine - expected).max() < 0.03


def test_one_plane_is_divided_evenly_and_is_empty_outside():
    plane = np.array([[2.0]])
    np.testing.assert_allclose(resampled_means(plane, edges(1, 6.0), edges(4, 3.0), 0)[:, 0], [0, 2, 2, 0], atol=1e-6)


def test_the_same_cells_are_untouched():
    values = np.random.default_rng(3).random((4, 5)).astype(np.float32)
    assert resampled_means(values, edges(4, 1e-9, 2e-9), edges(4, 1e-9, 2e-9), 0).tobytes() == values.tobytes()
