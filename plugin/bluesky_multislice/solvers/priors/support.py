"""Support of a sample measured at several angles."""

import torch
from torch import Tensor

from bluesky_multislice.measurement import ScanGeometry, VolumeGrid
from bluesky_multislice.optics.conventions import coordinates

_EVERY_ROW = slice(None)


def cylinder_support(geometry: ScanGeometry, grid: VolumeGrid, rows: slice = _EVERY_ROW) -> Tensor:
    """Return a mask (z, y, x), True in the cylinder about the rotation axis that the frames of all angles cover.

    Its radius is the smallest distance from the axis to an edge of the field, over all angles and both sides. Its
    length is the range along the axis that all angles cover.

    Args:
        geometry: the scan.
        grid: grid of the volume, relative to the rotation axis along z and x.
        rows: rows of the grid to return.
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
