"""Affine transformation of images in Fourier space: exact for well-sampled Gaussian spots."""

import numpy as np
import pytest
import torch

from bluesky_multislice.optics import affine

SPOTS = [(3.0, -4.0, 2.0, 1.0), (-5.0, 2.0, 1.8, 0.6)]


def spots(shape, matrix=((1.0, 0.0), (0.0, 1.0))):
    """Gaussian spots (y, x) as seen at matrix·(y, x)."""
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    (a, b), (c, d) = matrix
    return torch.as_tensor(
        sum(
            weight * np.exp(-((a * y + b * x - at_y) ** 2 + (c * y + d * x - at_x) ** 2) / (2 * width**2))
            for at_y, at_x, width, weight in SPOTS
        )
    )


def turned(scale, angle):
    return scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


@pytest.mark.parametrize("shape", [(8, 9), (9, 8)])
def test_nothing_changes_on_the_same_grid(shape):
    image = torch.rand(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(affine(image, shape, torch.eye(2)), image, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(30, 31), (24, 26)])
@pytest.mark.parametrize(("scale", "angle"), [(1.01, 0), (1.5, 0), (0.8, 0), (1, 0.05), (1, -0.3), (1.3, 0.2)])
def test_spots_are_where_the_matrix_says(shape, scale, angle):
    matrix = turned(scale, angle)
    found = affine(spots((41, 40)), shape, torch.as_tensor(matrix))
    assert float((found - spots(shape, matrix)).abs().max()) < 5e-5


def test_gradients_equal_differences():
    image = torch.rand(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    matrix = torch.as_tensor(turned(1.1, 0.1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda *given: affine(given[0], (4, 5), given[1]), (image, matrix))
