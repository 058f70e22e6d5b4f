"""Smoothness along the beam: couples slices that frames of one angle hardly distinguish at low frequencies."""

from dataclasses import dataclass

from torch import Tensor

from bluesky_multislice.solvers.priors.common_pass import Weights, forward_difference
from bluesky_multislice.solvers.priors.prior import Prior, Scales


@dataclass(frozen=True)
class SmoothnessZ(Prior):
    """Squared differences between neighbouring planes along z, per voxel."""

    name = "smoothness_z"

    def density(self, block: Tensor, scales: Scales) -> Tensor:
        """See ``Prior``."""
        return self.weight * forward_difference(block, 0).square()

    def weights(self, scales: Scales) -> Weights:
        """See ``Prior``."""
        return Weights(smoothness_z=2 * self.weight)
