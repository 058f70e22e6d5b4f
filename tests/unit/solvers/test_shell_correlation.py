"""Fourier shell correlation against volumes whose answer is known, the half-bit curve and the halves of the data."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import hologram_geometry, pattern_scan

from bluesky_multislice.solvers import halves, shell_correlation
from bluesky_multislice.solvers.shell_correlation import half_bit_curve

VOXEL_M = 2e-9


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def low_passed(volume, cutoff):
    """The volume without what lies above a part of the sampling frequency."""
    lines = [torch.fft.fftfreq(n) for n in volume.shape]
    radius = torch.stack(torch.meshgrid(*lines, indexing="ij")).square().sum(0).sqrt()
    return torch.fft.ifftn(torch.fft.fftn(volume) * (radius <= cutoff)).real


def test_equal_volumes_correlate_fully_down_to_two_voxels():
    found = shell_correlation(noise(24, 24, 24), noise(24, 24, 24), (VOXEL_M,) * 3)
    same = shell_correlation(noise(24, 24, 24), 3 * noise(24, 24, 24) + 5, (VOXEL_M,) * 3)
    np.testing.assert_allclose(same.correlation, 1, rtol=1e-6)
    assert same.resolution_m == pytest.approx(2 * VOXEL_M)
    np.testing.assert_allclose(found.frequency_per_m, np.arange(1, 13) / (24 * VOXEL_M))


def test_independent_noise_stays_below_the_half_bit_curve():
    found = shell_correlation(noise(24, 24, 24), noise(24, 24, 24, seed=1), (VOXEL_M,) * 3)
    assert np.abs(found.correlation[4:]).max() < 0.2
    assert (found.correlation < found.half_bit).all()
    assert found.resolution_m is None


def test_noise_of_equal_power_halves_the_correlation():
    signal, shape = noise(40, 40, 40), (40, 40, 40)
    found = shell_correlation(signal + noise(*shape, seed=1), signal + noise(*shape, seed=2), (VOXEL_M,) * 3)
    np.testing.assert_allclose(found.correlation[5:], 0.5, atol=0.05)


@pytest.mark.parametrize("cutoff", [0.15, 0.3])
def test_the_resolution_is_where_the_common_part_ends(cutoff):
    common, shape = 5 * low_passed(noise(48, 48, 48), cutoff), (48, 48, 48)
    found = shell_correlation(common + noise(*shape, seed=1), common + noise(*shape, seed=2), (VOXEL_M,) * 3)
    assert found.resolution_m == pytest.approx(VOXEL_M / cutoff, rel=0.1)


def test_two_axes_give_rings_summed_over_the_slices():
    first, second = noise(3, 32, 32), noise(3, 32, 32) + noise(3, 32, 32, seed=1)
    found = shell_correlation(first, second, (VOXEL_M, VOXEL_M))
    assert found.correlation[3:].mean() == pytest.approx(0.5**0.5, abs=0.02)
    assert found.half_bit[-1] < shell_correlation(first[:1], second[:1], (VOXEL_M, VOXEL_M)).half_bit[-1]


def test_shells_are_counted_in_metres_along_every_axis():
    found = shell_correlation(noise(8, 32, 32), noise(8, 32, 32), (4 * VOXEL_M, VOXEL_M, VOXEL_M))
    np.testing.assert_allclose(found.frequency_per_m, np.arange(1, 5) / (32 * VOXEL_M))


def test_half_bit_curve_has_its_limits():
    assert half_bit_curve(np.array([1e12]))[0] == pytest.approx(0.2071 / 1.2071, rel=1e-4)
    assert half_bit_curve(np.array([1.0]))[0] == pytest.approx((0.2071 + 1.9102) / (1.2071 + 0.9102))
    assert half_bit_curve(np.array([100.0]))[0] == pytest.approx(0.39812 / 1.29812, rel=1e-4)


def test_ptychography_is_halved_within_each_angle():
    geometry = pattern_scan(angles=4)[0].geometry
    first, second = halves(geometry, np.arange(geometry.views))
    assert sorted([*first, *second]) == list(range(geometry.views))
    for half in (first, second):
        assert len(half) == geometry.views // 2
        assert set(np.diff(np.sort(half))) <= {1, 2, 3}
        assert len(np.unique(geometry.angle_rad[half])) == 4


def test_holography_is_halved_by_angle_with_all_distances_of_one_together():
    geometry = hologram_geometry(angles=6)
    twice = replace(
        geometry,
        angle_rad=np.repeat(geometry.angle_rad[:3], 2),
        distance_m=np.tile([20e-9, 30e-9], 3),
    )
    assert [half.tolist() for half in halves(geometry, np.arange(6))] == [[0, 2, 4], [1, 3, 5]]
    assert [half.tolist() for half in halves(twice, np.arange(6))] == [[0, 1, 4, 5], [2, 3]]
    assert [half.tolist() for half in halves(twice, np.arange(2))] == [[0], [1]]


def test_some_of_the_views_are_halved_too():
    geometry = hologram_geometry(angles=6)
    assert [half.tolist() for half in halves(geometry, np.array([1, 4, 5]))] == [[1, 5], [4]]
    assert [len(half) for half in halves(geometry, np.array([], int))] == [0, 0]
