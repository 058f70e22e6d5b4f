"""The cylinder that every angle's windows cover."""

import numpy as np
from small_scan import VOXEL_M, hologram_geometry, pattern_scan

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.solvers import cylinder_support


def test_of_full_field_frames_it_is_inscribed_in_the_volume():
    support = cylinder_support(hologram_geometry(n=16), VolumeGrid((16, 12, 16), (VOXEL_M,) * 3)).numpy()
    z, x = np.meshgrid(*(np.arange(16) - 7.5,) * 2, indexing="ij")
    assert support.shape == (16, 12, 16)
    for row in support.transpose(1, 0, 2):
        np.testing.assert_array_equal(row, z**2 + x**2 <= 64)


def test_the_angle_that_reaches_least_sets_its_radius_and_its_length():
    geometry = hologram_geometry(n=16, angles=4)
    geometry.position_m[2] = (3 * VOXEL_M, 2 * VOXEL_M)
    support = cylinder_support(geometry, VolumeGrid((16, 19, 16), (VOXEL_M,) * 3)).numpy()
    z, y, x = np.meshgrid(np.arange(16) - 7.5, np.arange(19) - 9, np.arange(16) - 7.5, indexing="ij")
    np.testing.assert_array_equal(support, (z**2 + x**2 <= 36) & (y >= -5) & (y <= 8))


def test_positions_widen_it_and_the_grids_middle_moves_it():
    geometry = pattern_scan(angles=2)[0].geometry
    reach = (6 + 8) * VOXEL_M
    support = cylinder_support(geometry, VolumeGrid((28, 28, 28), (VOXEL_M,) * 3)).numpy()
    assert support[14].all(axis=0).sum() == 28
    assert not support[0, :, 0].any()
    moved = VolumeGrid((28, 28, 28), (VOXEL_M,) * 3, (0.0, reach, 0.0))
    assert cylinder_support(geometry, moved).numpy().any(axis=(0, 2)).sum() == 14
