"""Rotation about y. It happens in planes perpendicular to y, so a slab of y needs no other."""

import math

import torch
from torch import Tensor
from torch.nn import functional


def rotate(volume: Tensor, angle_rad: float) -> Tensor:
    """Return the lab's view (z, y, x) of a sample turned by +θ about +y, by linear interpolation.

    The lab point (x, z) sees the sample point (x·cosθ − z·sinθ, x·sinθ + z·cosθ); outside the volume is vacuum. The
    gradient is the exact transpose of the interpolation.

    Args:
        volume: (z, y, x) of cubic voxels in z and x.
        angle_rad: θ.
    """
    if angle_rad == 0:
        return volume
    nz, _, nx = volume.shape
    z, x = (torch.arange(n, dtype=torch.float64, device=volume.device) - (n - 1) / 2 for n in (nz, nx))
    z, x = torch.meshgrid(z, x, indexing="ij")
    cosine, sine = math.cos(angle_rad), math.sin(angle_rad)
    sample_x, sample_z = x * cosine - z * sine, x * sine + z * cosine
    where = torch.stack([sample_x * (2 / nx), sample_z * (2 / nz)], -1).to(volume.dtype)
    turned = functional.grid_sample(
        volume.movedim(1, 0)[None], where[None], mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return turned[0].movedim(0, 1)
