"""Sparsity: favours vacuum."""

from dataclasses import dataclass

from torch import Tensor

from bluesky_multislice.solvers.priors.common_pass import Weights
from bluesky_multislice.solvers.priors.prior import Prior, Scales


@dataclass(frozen=True)
class Sparsity(Prior):
    """Mean magnitude, the L1 norm per voxel."""

    name = "l1"

    def density(self, block: Tensor, scales: Scales) -> Tensor:
        """See ``Prior``."""
        return self.weights(scales).magnitude * block.abs()

    def weights(self, scales: Scales) -> Weights:
        """See ``Prior``."""
        return Weights(magnitude=self.weight)
