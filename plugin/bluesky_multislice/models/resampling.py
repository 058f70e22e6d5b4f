"""Resampling of a volume on another grid."""

import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.measurement import VolumeGrid


def resample(volume: Tensor, grid: VolumeGrid, onto: VolumeGrid) -> Tensor:
    """Return a volume on another grid by linear interpolation; border values continue outside of its own grid.

    Args:
        volume: (z, y, x) on ``grid``.
        grid: grid of the volume.
        onto: grid of the result.
    """
    if grid == onto:
        return volume
    lines = []
    for axis in (2, 1, 0):
        n, pitch, center = onto.shape[axis], onto.voxel_size_m[axis], onto.center_m[axis]
        where_m = center + (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pitch - grid.center_m[axis]
        # In units of half the grid's extent, as grid_sample expects.
        lines.append((where_m * (2 / (grid.shape[axis] * grid.voxel_size_m[axis]))).to(volume))
    x, y, z = lines
    points = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None]), dim=-1)
    return functional.grid_sample(
        volume[None, None], points[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
