"""Where a sample seen from several angles may have matter."""

import torch
from torch import Tensor

from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.optics.conventions import coordinates

_EVERY_ROW = slice(None)


def cylinder_support(geometry: ScanGeometry, grid: VolumeGrid, rows: slice = _EVERY_ROW) -> Tensor:
    """Return a bool mask (z, y, x), True inside the cylinder about the rotation axis that every angle's frames cover.

    The frames of an angle reach from one side of the axis to the other; the cylinder's radius is the least such reach
    of all angles and sides, and it is as long as what all of them cover along the axis.

    Args:
        geometry: the scan.
        grid: the volume; about the axis along z and x.
        rows: which of its rows to return.
    """
    reach_y, reach_x = (n / 2 * p for n, p in zip(geometry.field_shape, geometry.object_pixel_m, strict=True))
    bottom, top, radius = -torch.inf, torch.inf, torch.inf
    for angle in set(geometry.angle_rad.tolist()):
        y, x = geometry.position_m[geometry.angle_rad == angle].T
        bottom, top = max(bottom, y.min() - reach_y), min(top, y.max() + reach_y)
        radius = min(radius, x.max() + reach_x, reach_x - x.min())
    z, y, x = (
        coordinates(n, pitch) + middle
        for n, pitch, middle in zip(grid.shape, grid.voxel_size_m, grid.center_m, strict=True)
    )
    disc = z[:, None] ** 2 + x**2 <= radius**2
    return disc[:, None, :] & ((y >= bottom) & (y <= top))[rows][None, :, None]
