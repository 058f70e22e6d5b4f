"""Frames without a sample: what the probe alone has to explain while it is fitted with the volume."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bluesky_multislice.models import ForwardModel
from bluesky_multislice.solvers.fidelity import FIDELITIES, FidelityName


@dataclass(frozen=True, eq=False)
class EmptyBeam:
    """Flats as data.

    Attributes:
        model: of a grid of one plane, by projection.
        views: a view of each place of the detector that flats were taken at.
        amplitude: (place, y, x) root of the flats, in the units of the frames' amplitude.
        mask: (y, x) 1 where a pixel is good, else 0.
    """

    model: ForwardModel
    views: tuple[int, ...]
    amplitude: Tensor
    mask: Tensor

    def misfit(self, probe: Tensor, fidelity: FidelityName) -> Tensor:
        """Return the misfit of a flat, the mean over places, differentiable in the probe (mode, y, x)."""
        nothing = torch.zeros(self.model.grid.shape, device=probe.device)
        expected = self.model(nothing, nothing, probe, self.views)
        return FIDELITIES[fidelity](expected, self.amplitude, self.mask) / len(self.views)
