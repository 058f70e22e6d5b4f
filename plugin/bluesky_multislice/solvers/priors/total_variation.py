"""Total variation: favours objects of few materials, with sharp edges between them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bluesky_multislice.solvers.priors.common_pass import Weights, forward_difference
from bluesky_multislice.solvers.priors.prior import Prior, Scales


@dataclass(frozen=True)
class TotalVariation(Prior):
    """Mean length of the gradient per voxel.

    Attributes:
        along_z: factor on differences along z; above 1 it smooths more along the beam, below 1 less.
        first: factor on the weight in the first epoch. It decreases to 1 with the step length, so that edges form
            before details (continuation: Hale, Yin & Zhang, SIAM J. Optim. 19, 1107 (2008)).
        floor: length below which it is quadratic, so that it is differentiable, in steps of δ.
    """

    name = "total_variation"

    along_z: float = 1.0
    first: float = 1.0
    floor: float = 1.0

    def density(self, block: Tensor, scales: Scales) -> Tensor:
        """See ``Prior``."""
        weights = self.weights(scales)
        dz, dy, dx = (forward_difference(block, axis) for axis in range(3))
        squared = dx.square() + dy.square() + weights.along_z * dz.square() + weights.floor
        return weights.total_variation * (torch.sqrt(squared) - self.floor * scales.step_rad)

    def weights(self, scales: Scales) -> Weights:
        """See ``Prior``."""
        factor = 1 + (self.first - 1) * scales.relative_step
        floor = self.floor * scales.step_rad
        return Weights(total_variation=factor * self.weight, along_z=self.along_z**2, floor=floor**2)
