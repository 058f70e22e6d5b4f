"""Filtered back-projection in this package's axes and units."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch
from small_scan import ball

from bluesky_multislice.models import angle_weights, back_project
from bluesky_multislice.optics import rotate


def projections(volume, angles):
    """Sums (angle, y, x) along the beam."""
    return torch.stack([rotate(torch.from_numpy(volume), float(angle)).sum(0) for angle in angles]).numpy()


@pytest.fixture(scope="module")
def angles():
    return np.arange(40) * np.pi / 40


@pytest.fixture(scope="module")
def volume():
    """δ (z, y, x) of a ball off the axis in all directions: no two axes, nor their senses, are alike."""
    return ball(32, radius=5.0, delta=1.0)


def test_a_volume_comes_back_in_place_and_in_size(volume, angles):
    found = back_project(projections(volume, angles), angles, angle_weights(angles))
    assert np.corrcoef(found.ravel(), volume.ravel())[0, 1] > 0.97  # 0.985 was measured
    assert found[16:19, 14:17, 17:20].mean() == pytest.approx(1.0, abs=0.05)
    for axes in ((0,), (1,), (2,), (0, 2)):
        assert np.corrcoef(np.flip(found, axes).ravel(), volume.ravel())[0, 1] < 0.9


def test_angles_add_up(volume, angles):
    weights, seen = angle_weights(angles), projections(volume, angles)
    parts = sum(back_project(seen[part::2], angles[part::2], weights[part::2]) for part in (0, 1))
    np.testing.assert_allclose(parts, back_project(seen, angles, weights), atol=1e-5)


def test_numba_may_have_more_threads(volume, angles):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")
    seen, weights, before = projections(volume, angles), angle_weights(angles), numba.get_num_threads()
    alone = back_project(seen, angles, weights)
    numba.set_num_threads(2)
    try:
        for _ in range(20):
            np.testing.assert_array_equal(back_project(seen, angles, weights), alone)
        assert numba.get_num_threads() == 2
    finally:
        numba.set_num_threads(before)


def test_even_angles_share_half_a_turn():
    np.testing.assert_allclose(angle_weights(np.arange(5) * np.pi / 5), np.pi / 5)
    np.testing.assert_allclose(angle_weights(np.arange(10) * np.pi / 5), np.pi / 10)


def test_an_angle_beside_a_gap_stands_for_little_of_it():
    angles = np.radians([0, 10, 20, 30, 40, 50])
    assert angle_weights(angles)[0] == pytest.approx(np.radians(15))


def test_the_order_of_angles_does_not_matter():
    angles = np.array([0.1, 2.0, 0.3, 1.1])
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(angle_weights(angles)[order], angle_weights(angles[order]))


def test_the_threads_of_torch_stay_as_they_were():
    """In a process of its own: numba asks for threads once."""
    script = """
import numpy as np, torch
from bluesky_multislice.models import back_project
torch.set_num_threads(1)
back_project(np.ones((2, 1, 8), np.float32), np.array([0.0, 1.0]), np.full(2, 0.5))
assert torch.get_num_threads() == 1, torch.get_num_threads()
"""
    subprocess.run([sys.executable, "-c", script], check=True, env=os.environ | {"NUMBA_NUM_THREADS": "2"})
