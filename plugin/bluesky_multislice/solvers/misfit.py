"""The misfit of frames by a fit's data fidelity, and its gradient."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import Turned
from bluesky_multislice.solvers.fidelity import FIDELITIES
from bluesky_multislice.solvers.unknowns import FitSettings, Unknowns
from bluesky_multislice.solvers.views import ViewSet


def misfit_of(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp], settings: FitSettings) -> Tensor:
    """Return the sum of the misfit over the pixels of those of a batch's views that this rank computes, differentiable.

    Every rank of the angle calls it with the same batch.
    """
    expected, measured = unknowns.expect(frames.views[batch]), frames.measured(batch)
    return FIDELITIES[settings.fidelity](expected, measured, frames.mask)


def add_gradients(
    unknowns: Unknowns, frames: ViewSet, batches: Sequence[NDArray[np.intp]], settings: FitSettings
) -> Tensor:
    """Add the gradients of batches, and their light, to the unknowns'; return their misfit and number of pixels, (2,).

    One angle after the other: the turned planes of one, and of the next one on its way, and a gradient as large as the
    volume, are held at a time.
    """
    at_an_angle = [
        frames.views[batch[frames.angles[batch] == angle]]
        for batch in batches
        for angle in np.unique(frames.angles[batch])
    ]
    turned, total = _turned_ahead(unknowns, at_an_angle), torch.zeros(2, device=frames.mask.device)
    for batch in batches:
        total += _add_batch(unknowns, frames, batch, turned, settings)
        unknowns.add_light(frames.views[batch])
    # The last gradients are on their way back.
    next(turned, None)
    return total


def _add_batch(
    unknowns: Unknowns,
    frames: ViewSet,
    batch: NDArray[np.intp],
    turned: Iterator[Turned | None],
    settings: FitSettings,
) -> Tensor:
    """Add the gradients of a batch, for each angle of which the turned object comes; see ``add_gradients``."""
    measured, misfit = frames.measured(batch), torch.zeros((), device=frames.mask.device)
    own = unknowns.computes(frames.views[batch])
    for angle in np.unique(frames.angles[batch]):
        members = frames.angles[batch] == angle
        expected = unknowns.expect(frames.views[batch[members]], next(turned))
        seen = measured if members.all() else measured[np.flatnonzero(members[own])]
        part = FIDELITIES[settings.fidelity](expected, seen, frames.mask)
        part.backward()
        misfit += part.detach()
    if frames.empty is not None and (probe := unknowns.probe).requires_grad:
        # All flats together count as much as a batch.
        (int(own.sum()) * frames.empty.misfit(probe, settings.fidelity)).backward()
    return torch.stack([misfit, int(own.sum()) * frames.mask.sum()])


def _turned_ahead(unknowns: Unknowns, views: list[NDArray[np.intp]]) -> Iterator[Turned | None]:
    """Yield the turned object for some views after the others; the next one's rows, and gradients, travel meanwhile."""
    back: Turned | None = None
    ahead = unknowns.turn(views[0]) if views else None
    for after in range(1, len(views) + 1):
        turned, ahead = ahead, unknowns.turn(views[after]) if after < len(views) else None
        yield turned
        if turned is not None:
            turned.send_back()
        if back is not None:
            back.finish()
        back = turned
    if back is not None:
        back.finish()
