"""The step of a descent from the data, so that none is set by hand."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


def step_to_the_bottom(
    unknowns: Unknowns,
    frames: ViewSet,
    batches: Sequence[NDArray[np.intp]],
    direction: Tensor,
    probing_rad: float,
    mesh: Mesh,
) -> float:
    """Return the multiple of a direction that leads down to the bottom of the misfit, seen as a parabola.

    Args:
        unknowns: with the mean gradient of all ranks' batches.
        frames: this rank's frames.
        batches: indices of those that the gradient is of; none on a rank that has none left.
        direction: uphill, shaped like the object.
        probing_rad: largest change, radians through the whole volume.
        mesh: the ranks.

    Returns:
        a length; 0 where the frames do not change along the direction.
    """
    bend = curvature(unknowns, frames, batches, direction, probing_rad, mesh)
    return unknowns.slope(direction) / bend if bend > 0 else 0.0


@torch.no_grad()
def curvature(
    unknowns: Unknowns,
    frames: ViewSet,
    batches: Sequence[NDArray[np.intp]],
    direction: Tensor,
    probing_rad: float,
    mesh: Mesh,
) -> float:
    """Return the second derivative of the mean misfit along a direction of the object.

    It is that of Gauss and Newton, 2·Σ(Δ√I)² over the pixels, where Δ√I is how the expected amplitudes answer to a
    small change. Source of the metric: Nocedal & Wright, Numerical Optimization, 10.3.

    Args:
        unknowns: what is fitted.
        frames: this rank's frames.
        batches: indices of those that count.
        direction: shaped like the object.
        probing_rad: largest change, radians through the whole volume.
        mesh: the ranks.
    """
    largest = unknowns.slab.largest(float(torch.linalg.vector_norm(direction, torch.inf)))
    if largest == 0:
        return 0.0
    part = probing_rad / largest
    # Where ranks share planes there is no memory for a copy of all, and an empty object needs none.
    empty = not unknowns.object.any()
    saved = None if unknowns.shares_planes or empty else unknowns.object.detach().clone()
    answer = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    for batch in batches:
        before = _amplitude(unknowns, frames, batch)
        unknowns.object.sub_(direction, alpha=part)
        difference = _amplitude(unknowns, frames, batch) - before
        if empty:
            unknowns.object.zero_()
        elif saved is None:
            unknowns.object.add_(direction, alpha=part)
        else:
            unknowns.object.copy_(saved)
        answer += torch.stack([difference.square().sum(dtype=torch.float64), len(difference) * frames.mask.sum()])
    unknowns.gather()
    mesh.sum(answer)
    return 2 * float(answer[0] / answer[1]) / part**2


def _amplitude(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp]) -> Tensor:
    """Return the expected amplitude (view, y, x) of good pixels."""
    return frames.mask * torch.sqrt(unknowns.expect(frames.views[batch]))
