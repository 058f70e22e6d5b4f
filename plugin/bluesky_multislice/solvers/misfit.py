"""Misfit of frames and its gradient, for the data fidelity of a fit."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.models import RotatedObject
from bluesky_multislice.optics import on_device
from bluesky_multislice.solvers.fidelity import FIDELITIES
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


def misfit_of(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp]) -> Tensor:
    """Return the misfit summed over the views of a batch that this rank computes; differentiable.

    Every rank of the angle group calls it with the same batch.
    """
    expected, measured = unknowns.expected_intensity(frames.views[batch]), frames.measured(batch)
    return FIDELITIES[unknowns.settings.fidelity](expected, measured, frames.mask)


def add_gradients(unknowns: Unknowns, frames: ViewSet, batches: Sequence[NDArray[np.intp]]) -> Tensor:
    """Add gradients and illumination of these batches to the unknowns; return their misfit and number of pixels, (2,).

    Angles are computed one after another. Memory holds the rotated planes of two angles and one gradient as large as
    the volume.
    """
    total = torch.zeros(2, device=frames.mask.device)
    for expected, measured in expected_and_measured(unknowns, frames, batches, gradients=True):
        misfit = FIDELITIES[unknowns.settings.fidelity](expected, measured, frames.mask)
        misfit.backward()
        total += torch.stack([misfit.detach(), len(expected) * frames.mask.sum()])
        del expected, measured, misfit
    for batch in batches:
        views = frames.views[batch]
        if frames.empty is not None and (probe := unknowns.probe).requires_grad:
            # All flats together have the weight of one batch.
            (
                int(unknowns.slab.computes(views).sum()) * frames.empty.misfit(probe, unknowns.settings.fidelity)
            ).backward()
        unknowns.add_illumination(views)
    return total


def expected_and_measured(
    unknowns: Unknowns, frames: ViewSet, batches: Sequence[NDArray[np.intp]], *, gradients: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield expected intensity and measured amplitude, (view, y, x) each, for one angle of a batch after another.

    Delete the previous pair before requesting the next, so that memory holds the frames of one batch.

    Args:
        unknowns: object and probe.
        frames: the frames.
        batches: view indices; equal on every rank of the angle group.
        gradients: whether the caller runs a backward pass through each expected intensity before requesting the next.
    """
    batch_angles = _batch_angles(frames, batches)
    rotated = _prefetch_rotated(unknowns, [frames.views[batch[members]] for batch, members in batch_angles], gradients)
    measured, last = torch.empty(0), None
    for batch, members in batch_angles:
        if batch is not last:
            # Freed before the next frames are read.
            del measured
            measured, last = frames.measured(batch), batch
        selected = measured
        if not members.all():
            own = np.flatnonzero(members[unknowns.slab.computes(frames.views[batch])])
            selected = measured[on_device(own, measured.device)]
        yield unknowns.expected_intensity(frames.views[batch[members]], next(rotated)), selected
        del selected
    # Completes the exchange of the last gradients.
    next(rotated, None)


def own_views(unknowns: Unknowns, frames: ViewSet, batches: Sequence[NDArray[np.intp]]) -> Iterator[NDArray[np.intp]]:
    """Yield the views of each pair that ``expected_and_measured`` yields, as indices of the scan's views."""
    for batch, members in _batch_angles(frames, batches):
        views = frames.views[batch[members]]
        yield views[unknowns.slab.computes(views)]


def _batch_angles(
    frames: ViewSet, batches: Sequence[NDArray[np.intp]]
) -> list[tuple[NDArray[np.intp], NDArray[np.bool_]]]:
    """Return for each angle of each batch the batch and which of its views have the angle."""
    return [(batch, frames.angles[batch] == angle) for batch in batches for angle in np.unique(frames.angles[batch])]


def _prefetch_rotated(
    unknowns: Unknowns, views: list[NDArray[np.intp]], gradients: bool
) -> Iterator[RotatedObject | None]:
    """Yield the rotated object for each set of views; the next one's rows and the gradients are sent meanwhile."""
    returning: RotatedObject | None = None
    ahead = unknowns.rotate(views[0]) if views else None
    for following in range(1, len(views) + 1):
        rotated, ahead = ahead, unknowns.rotate(views[following]) if following < len(views) else None
        yield rotated
        if rotated is None or not gradients:
            continue
        rotated.send_back()
        if returning is not None:
            returning.finish()
        returning = rotated
    if returning is not None:
        returning.finish()
