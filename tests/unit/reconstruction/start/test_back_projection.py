"""Filtered back-projection in this package's axes and units."""

import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch
from algotom.rec.reconstruction import apply_ramp_filter
from small_scan import ball

from bluesky_multislice.optics import rotate
from bluesky_multislice.reconstruction.start import angle_weights, back_project, back_projection
from bluesky_multislice.reconstruction.start.back_projection import ramp_filtered


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
    found = back_project(projections(volume, angles), angles, angle_weights(angles)).numpy()
    assert np.corrcoef(found.ravel(), volume.ravel())[0, 1] > 0.97  # 0.985 was measured
    assert found[16:19, 14:17, 17:20].mean() == pytest.approx(1.0, abs=0.05)
    for axes in ((0,), (1,), (2,), (0, 2)):
        assert np.corrcoef(np.flip(found, axes).ravel(), volume.ravel())[0, 1] < 0.9


def test_angles_add_up(volume, angles):
    weights, seen = angle_weights(angles), projections(volume, angles)
    parts = sum(back_project(seen[part::2], angles[part::2], weights[part::2]) for part in (0, 1))
    np.testing.assert_allclose(parts, back_project(seen, angles, weights), atol=1e-5)


def test_it_is_the_back_projection_of_algotom_in_one_thread(volume, angles):
    """Its loop over angles loses sums in more threads (algotom 1.7)."""
    script = """
import sys
import numpy as np
from algotom.rec.reconstruction import back_projection_cpu
filtered, angles = (np.load(f"{sys.argv[1]}/{name}.npy") for name in ("filtered", "angles"))
found = np.empty((filtered.shape[2], *filtered.shape[1:]), np.float32)
for row in range(filtered.shape[1]):
    sinogram = np.ascontiguousarray(filtered[:, row])
    found[:, row] = back_projection_cpu(sinogram, np.float32(-angles), np.float32(filtered.shape[2] - 1) / 2)
np.save(f"{sys.argv[1]}/found.npy", found)
"""
    # No pixel is seen right at the rim, where rounding tells whether it counts.
    angles = angles + 0.013
    seen, weights = projections(volume, angles), angle_weights(angles)
    filtered = np.float32(ramp_filtered(seen) * weights[:, None, None])
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("filtered", filtered), ("angles", angles)):
            np.save(f"{folder}/{name}.npy", array)
        environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
        subprocess.run([sys.executable, "-c", script, folder], check=True, env=environment)
        theirs = np.load(f"{folder}/found.npy")
    np.testing.assert_allclose(back_project(seen, angles, weights).numpy(), theirs, atol=2e-5)


@pytest.mark.parametrize("width", [31, 32, 256])
def test_the_ramp_filter_is_that_of_algotom(width):
    """Its Hann window is not symmetric in frequency by half a sample, so that both differ by 1/width."""
    x, uneven = np.arange(width) / width - 0.5, np.random.default_rng(0).uniform(0.9, 1.1, (5, width))
    seen = np.exp(-((6 * x) ** 2)) * uneven + 0.2
    theirs = apply_ramp_filter(seen, filter_name="hann", pad=width // 2)
    np.testing.assert_allclose(ramp_filtered(seen[None])[0], theirs, rtol=0, atol=np.abs(theirs).max() / width)


def test_threads_and_parts_of_the_angles_change_nothing(monkeypatch, volume, angles):
    seen, weights, before = projections(volume, angles), angle_weights(angles), torch.get_num_threads()
    alone = back_project(seen, angles, weights)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(back_project(seen, angles, weights), alone)
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(back_projection, "_AT_ONCE", 7 * 2 * volume.shape[0] ** 2)
    torch.testing.assert_close(back_project(seen, angles, weights), alone, rtol=0, atol=1e-5)


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
