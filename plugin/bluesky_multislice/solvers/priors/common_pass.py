"""The common pass of priors: the gradient of differences and magnitudes, in one pass over the voxels.

Priors that are such terms add their weights and are computed together: on a CPU by numba (``fused_regularisers``), on
an accelerator together with the optimiser and the bounds by Triton (``optimisers.triton_descent``), otherwise here.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Weights(NamedTuple):
    """Weights of the terms of the common pass.

    Attributes:
        total_variation: weight of the gradient's length.
        along_z: factor on the squared difference along z in this length.
        floor: constant added to the squared length.
        smoothness_z: weight of half the squared difference along z.
        magnitude: weight of |voxel|.
    """

    total_variation: float = 0.0
    along_z: float = 1.0
    floor: float = 1.0
    smoothness_z: float = 0.0
    magnitude: float = 0.0

    def scaled(self, factor: float) -> "Weights":
        """Return the weights of all terms multiplied by a factor."""
        return self._replace(
            total_variation=factor * self.total_variation,
            smoothness_z=factor * self.smoothness_z,
            magnitude=factor * self.magnitude,
        )


def summed(parts: Iterable[Weights]) -> Weights:
    """Return the weights of a sum of terms, of which at most one has a gradient's length."""
    total = Weights()
    for part in parts:
        length = part if part.total_variation > 0 else total
        smoothness_z, magnitude = total.smoothness_z + part.smoothness_z, total.magnitude + part.magnitude
        total = length._replace(smoothness_z=smoothness_z, magnitude=magnitude)
    return total


def add_gradient(
    block: Tensor, gradient: Tensor, counted: tuple[int, int], weights: Weights, weight: Tensor | float
) -> None:
    """Add the gradient of the first planes and rows; the block may contain one neighbour after them.

    Args:
        block: (z, y, x).
        gradient: same shape, changed in place.
        counted: numbers of planes and rows to evaluate.
        weights: weights of the terms.
        weight: factor on the terms of a voxel.
    """
    planes, rows = counted
    if block.dtype == gradient.dtype == torch.float32 and block.device.type == "cpu":
        width = block.shape[2]
        for y_last, counts in ((False, (planes, rows, width)), (True, (planes, width, rows))):
            values, uphill = (part.mT if y_last else part for part in (block, gradient))
            if values.is_contiguous() and uphill.is_contiguous():
                # Imported here because importing numba takes a second.
                from bluesky_multislice.solvers.priors import fused_regularisers

                of_voxel = weights.scaled(float(weight))
                fused_regularisers.add_gradient(values.numpy(), uphill.numpy(), counts, of_voxel)
                return
    along_z, along_y, along_x = (forward_difference(block, dim)[:planes, :rows] for dim in range(3))
    here = gradient[:planes, :rows]
    factor_z: Tensor | float = weights.smoothness_z * weight
    if weights.total_variation > 0:
        length = along_x.square().addcmul_(along_y, along_y).addcmul_(along_z, along_z, value=weights.along_z)
        factor = length.add_(weights.floor).rsqrt_().mul_(weights.total_variation * weight)
        gradient[:planes, 1 : 1 + rows] += along_y.mul_(factor)[:, : block.shape[1] - 1]
        here[..., 1:] += along_x.mul_(factor)[..., :-1]
        here -= along_y.add_(along_x)
        factor_z = factor.mul_(weights.along_z).add_(factor_z)
    gradient[1 : 1 + planes, :rows] += along_z.mul_(factor_z)[: len(block) - 1]
    here -= along_z
    if weights.magnitude > 0:
        here += block[:planes, :rows].sign().mul_(weights.magnitude * weight)


def forward_difference(volume: Tensor, dim: int) -> Tensor:
    """Return the difference to the next voxel along an axis; 0 for the last voxel."""
    difference, steps = torch.zeros_like(volume), volume.shape[dim] - 1
    difference.narrow(dim, 0, steps).add_(volume.narrow(dim, 1, steps)).sub_(volume.narrow(dim, 0, steps))
    return difference
