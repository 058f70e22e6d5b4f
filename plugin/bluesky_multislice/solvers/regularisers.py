"""What is asked of a volume besides fitting the frames."""

import torch
from torch import Tensor


def total_variation(volume: Tensor, floor: float) -> Tensor:
    """Return the mean length of the gradient of (..., z, y, x), in units of the volume a voxel.

    Args:
        volume: any leading shape.
        floor: length below which it turns quadratic, so that it can be differentiated.
    """
    steps = [torch.diff(volume, dim=axis, append=volume.narrow(axis, -1, 1)) for axis in (-3, -2, -1)]
    return torch.sqrt(sum((step**2 for step in steps), torch.full_like(volume, floor**2))).mean() - floor
