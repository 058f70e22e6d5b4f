"""The misfit of frames by a fit's data fidelity, and its gradient."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.solvers.fidelity import FIDELITIES
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import ViewSet


def misfit_of(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp], settings: FitSettings) -> Tensor:
    """Return the sum of the misfit over the pixels of those of a batch's views that this rank computes, differentiable.

    Every rank of the angle calls it with the same batch.
    """
    expected, measured = unknowns.expect(frames.views[batch]), frames.measured(batch)
    return FIDELITIES[settings.fidelity](expected, measured, frames.mask)


def add_gradients(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp], settings: FitSettings) -> Tensor:
    """Add a batch's gradients, and its light, to the unknowns' and return its misfit and its number of pixels, (2,).

    One angle after the other: the turned planes of one, and its gradient as large as the volume, are held at a time.
    """
    measured, misfit = frames.measured(batch), torch.zeros((), device=frames.mask.device)
    own = unknowns.computes(frames.views[batch])
    for angle in np.unique(frames.angles[batch]):
        members = frames.angles[batch] == angle
        expected = unknowns.expect(frames.views[batch[members]])
        seen = measured if members.all() else measured[np.flatnonzero(members[own])]
        part = FIDELITIES[settings.fidelity](expected, seen, frames.mask)
        part.backward()
        misfit += part.detach()
    if frames.empty is not None and (probe := unknowns.probe).requires_grad:
        # All flats together count as much as a batch.
        (int(own.sum()) * frames.empty.misfit(probe, settings.fidelity)).backward()
    unknowns.add_light(frames.views[batch])
    return torch.stack([misfit, int(own.sum()) * frames.mask.sum()])
