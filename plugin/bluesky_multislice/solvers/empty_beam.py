"""Misfit of flats (frames without a sample), which a jointly fitted probe must also reproduce."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bluesky_multislice.choices import FidelityName
from bluesky_multislice.models import ForwardModel
from bluesky_multislice.solvers.fidelity import FIDELITIES


@dataclass(frozen=True, eq=False)
class EmptyBeam:
    """Flats as data.

    Attributes:
        model: projection model with a grid of one plane.
        views: one view per detector position at which flats were taken.
        amplitude: (place, y, x) square root of the flats, in units of the frames' amplitude.
        mask: (y, x) 1 for good pixels, else 0.
    """

    model: ForwardModel
    views: tuple[int, ...]
    amplitude: Tensor
    mask: Tensor

    def misfit(self, probe: Tensor, fidelity: FidelityName) -> Tensor:
        """Return the misfit of a flat, averaged over detector positions; differentiable in the probe (mode, y, x)."""
        no_object = torch.zeros(self.model.grid.shape, device=probe.device)
        expected = self.model(no_object, no_object, probe, self.views)
        return FIDELITIES[fidelity](expected, self.amplitude, self.mask) / len(self.views)
