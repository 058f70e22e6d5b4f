"""A volume on another grid."""

import numpy as np
import pytest
import torch

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import resample

COARSE = VolumeGrid((4, 5, 6), (2.0, 3.0, 4.0), (0.0, 1.0, -2.0))


def ramp(grid):
    """z + 10 y + 100 x at each voxel."""
    z, y, x = (
        center + (torch.arange(n) - (n - 1) / 2) * pitch
        for n, pitch, center in zip(grid.shape, grid.voxel_size_m, grid.center_m, strict=True)
    )
    return z[:, None, None] + 10 * y[:, None] + 100 * x


@pytest.mark.parametrize(
    "onto",
    [
        COARSE,
        VolumeGrid((8, 10, 12), (1.0, 1.5, 2.0), (0.0, 1.0, -2.0)),
        VolumeGrid((3, 3, 3), (1.0, 2.0, 3.0), (0.5, 0.0, -1.0)),
    ],
)
def test_what_varies_along_straight_lines_is_exact_inside_the_grid(onto):
    found, exact = resample(ramp(COARSE), COARSE, onto), ramp(onto)
    assert found.shape == onto.shape
    inside = (slice(1, -1),) * 3 if onto.shape != COARSE.shape else ...
    np.testing.assert_allclose(found[inside], exact[inside], rtol=1e-4, atol=1e-3)


def test_outside_is_as_the_border():
    onto = VolumeGrid((4, 5, 10), (2.0, 3.0, 4.0), (0.0, 1.0, -2.0))
    found = resample(ramp(COARSE), COARSE, onto)
    np.testing.assert_allclose(found[..., :2], ramp(COARSE)[..., :1].expand(-1, -1, 2), rtol=1e-4, atol=1e-3)
