"""The misfit of frames by a fit's data fidelity, and its gradient."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import RotatedObject
from bluesky_multislice.optics import on_device
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
    total = torch.zeros(2, device=frames.mask.device)
    for expected, measured in expected_and_measured(unknowns, frames, batches, gradients=True):
        misfit = FIDELITIES[settings.fidelity](expected, measured, frames.mask)
        misfit.backward()
        total += torch.stack([misfit.detach(), len(expected) * frames.mask.sum()])
        del expected, measured, misfit
    for batch in batches:
        views = frames.views[batch]
        if frames.empty is not None and (probe := unknowns.probe).requires_grad:
            # All flats together count as much as a batch.
            (int(unknowns.computes(views).sum()) * frames.empty.misfit(probe, settings.fidelity)).backward()
        unknowns.add_light(views)
    return total


def expected_and_measured(
    unknowns: Unknowns, frames: ViewSet, batches: Sequence[NDArray[np.intp]], *, gradients: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield expected intensities and measured amplitudes, (view, y, x) each, of one angle of a batch after another.

    Let go of what came before asking for more: the frames of one batch are held at a time.

    Args:
        unknowns: what the frames are expected from.
        frames: the frames.
        batches: which of their views, the same on every rank of the angle.
        gradients: whether a backward pass goes through what is expected, each before the next is asked for.
    """
    at_an_angle = [
        (batch, frames.angles[batch] == angle) for batch in batches for angle in np.unique(frames.angles[batch])
    ]
    turned = _turned_ahead(unknowns, [frames.views[batch[members]] for batch, members in at_an_angle], gradients)
    measured, last = torch.empty(0), None
    for batch, members in at_an_angle:
        if batch is not last:
            # Before the next ones are read.
            del measured
            measured, last = frames.measured(batch), batch
        seen = measured
        if not members.all():
            own = np.flatnonzero(members[unknowns.computes(frames.views[batch])])
            seen = measured[on_device(own, measured.device)]
        yield unknowns.expect(frames.views[batch[members]], next(turned)), seen
        del seen
    # The last gradients are on their way back.
    next(turned, None)


def _turned_ahead(unknowns: Unknowns, views: list[NDArray[np.intp]], gradients: bool) -> Iterator[RotatedObject | None]:
    """Yield the turned object for some views after the others; the next one's rows, and gradients, travel meanwhile."""
    back: RotatedObject | None = None
    ahead = unknowns.turn(views[0]) if views else None
    for after in range(1, len(views) + 1):
        turned, ahead = ahead, unknowns.turn(views[after]) if after < len(views) else None
        yield turned
        if turned is None or not gradients:
            continue
        turned.send_back()
        if back is not None:
            back.finish()
        back = turned
    if back is not None:
        back.finish()
