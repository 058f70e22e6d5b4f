"""Vacuum against noise: the mean magnitude, with a weight that follows from the frames' noise."""

import math
from dataclasses import dataclass

from torch import Tensor

from bluesky_multislice.solvers.priors.common_pass import Weights
from bluesky_multislice.solvers.priors.prior import Prior, Scales


@dataclass(frozen=True)
class Vacuum(Prior):
    """Mean magnitude; its weight is in multiples of the noise in vacuum, ``vacuum_noise_weight``."""

    name = "vacuum"

    def density(self, block: Tensor, scales: Scales) -> Tensor:
        """See ``Prior``."""
        return self.weights(scales).magnitude * block.abs()

    def weights(self, scales: Scales) -> Weights:
        """See ``Prior``."""
        return Weights(magnitude=self.weight * scales.noise)


def vacuum_noise_weight(misfit: float, *, lateral_pixels: int, measured_pixels: int) -> float:
    """Return the weight of the mean magnitude that balances the frames' noise (one σ) in a voxel of vacuum.

    Frames hardly depend on a uniform phase of the whole field. With positivity, noise accumulates in such a phase.
    Noise of variance s on the amplitudes of n pixels gives the mean misfit a gradient of √(2s/(m·n))/nz per voxel, for
    nz planes of m pixels. The mean magnitude of two parts has the gradient 1/(2·nz·m). The misfit of the fit so far
    replaces s, as in the square-root lasso (Belloni, Chernozhukov & Wang, Biometrika 98, 791 (2011)), so that no
    property of the detector is needed.

    Args:
        misfit: mean misfit per pixel, relative to the mean intensity.
        lateral_pixels: pixels of a plane of the volume.
        measured_pixels: good pixels of all fitted frames.
    """
    return math.sqrt(8 * misfit * lateral_pixels / measured_pixels)
