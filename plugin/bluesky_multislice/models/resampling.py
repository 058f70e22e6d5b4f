"""A volume on another grid."""

import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.measurement import VolumeGrid


def resample(volume: Tensor, grid: VolumeGrid, onto: VolumeGrid) -> Tensor:
    """Return a volume on another grid, between voxels by straight lines, outside of its own grid as at its border.

    Args:
        volume: (z, y, x) on ``grid``.
        grid: where its voxels lie.
        onto: where those of the result lie.
    """
    if grid == onto:
        return volume
    lines = []
    for axis in (2, 1, 0):
        n, pitch, center = onto.shape[axis], onto.voxel_size_m[axis], onto.center_m[axis]
        where_m = center + (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * pitch - grid.center_m[axis]
        # In half the extent of the grid, as grid_sample counts.
        lines.append((where_m * (2 / (grid.shape[axis] * grid.voxel_size_m[axis]))).to(volume))
    x, y, z = lines
    points = torch.stack(torch.broadcast_tensors(x, y[:, None], z[:, None, None]), dim=-1)
    return functional.grid_sample(
        volume[None, None], points[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
