"""Definition of a prior: one frozen dataclass that contains everything specific to it.

A prior is what is assumed of the object. Its term in the cost is a mean over all voxels of δ and β, in radians of phase
through the whole volume. Bounds are no priors in this sense; see ``bounds``.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bluesky_multislice.solvers.priors.common_pass import Weights


@dataclass(frozen=True)
class Scales:
    """Scales of a fit that parameters of priors are relative to.

    Attributes:
        step_rad: step of δ and β, radians of phase through the whole volume.
        noise: weight of the mean magnitude that balances the frames' noise, from ``vacuum_noise_weight``.
        relative_step: step length of the present epoch relative to the first.
    """

    step_rad: float
    noise: float = 0.0
    relative_step: float = 0.0


@dataclass(frozen=True)
class Prior(ABC):
    """One prior. Its fields are its parameters: numbers, which plans keep by name.

    A subclass defines ``density``. Its gradient follows by differentiation, unless ``weights`` names an equal term of
    the common pass, which is faster.

    Attributes:
        weight: weight of the prior's term relative to the data fidelity; 0: no effect.
    """

    name: ClassVar[str]
    """Name in the recipe and in plans."""

    weight: float = 0.0

    @abstractmethod
    def density(self, block: Tensor, scales: Scales) -> Tensor:
        """Return the weighted term of each voxel; the prior's term in the cost is its mean over the voxels of δ and β.

        A voxel's term may depend on itself and on the next voxel along each axis. At the end of an axis, a voxel is its
        own neighbour. Larger neighbourhoods would be cut where the volume is divided between ranks.

        Args:
            block: δ or β of some voxels (z, y, x), radians of phase through the whole volume.
            scales: scales of the fit.

        Returns:
            (z, y, x).
        """

    def weights(self, scales: Scales) -> Weights | None:
        """Return the weights with which the common pass, on accelerators one fused kernel, gives the same gradient.

        Args:
            scales: scales of the fit.

        Returns:
            the weights per unit of the mean; None if the common pass has no such term.
        """
        return None

    def add_gradient(
        self, block: Tensor, gradient: Tensor, counted: tuple[int, int], scales: Scales, weight: Tensor | float
    ) -> None:
        """Add the gradient of the first planes and rows; the block may contain one neighbour after them.

        Args:
            block: δ or β (z, y, x).
            gradient: same shape, changed in place.
            counted: numbers of planes and rows to evaluate.
            scales: scales of the fit.
            weight: factor on the term of a voxel.
        """
        planes, rows = counted
        with torch.enable_grad():
            leaf = block.detach().requires_grad_()
            (own,) = torch.autograd.grad(self.density(leaf, scales)[:planes, :rows].sum(), leaf)
        gradient += own.mul_(weight)
