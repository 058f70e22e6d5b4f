"""Step length of gradient descent from a line search."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


def line_search_step(
    unknowns: Unknowns,
    frames: ViewSet,
    batches: Sequence[NDArray[np.intp]],
    direction: Tensor,
    probing_rad: float,
    mesh: Mesh,
) -> float:
    """Return the step along a direction that minimises the misfit, in its quadratic approximation.

    Args:
        unknowns: object and probe with the mean gradient of all ranks' batches.
        frames: this rank's frames.
        batches: view indices of the gradient; empty on a rank without batches.
        direction: direction of ascent, shaped like the object.
        probing_rad: largest change of the object in a finite difference, radians through the whole volume.
        mesh: the ranks.

    Returns:
        the step as a multiple of the direction; 0 if the frames do not change along it.
    """
    second_derivative = curvature(unknowns, frames, batches, direction, probing_rad, mesh)
    return unknowns.volume.slope(direction) / second_derivative if second_derivative > 0 else 0.0


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

    Uses the Gauss–Newton approximation, 2·Σ(Δ√I)² over the pixels, with the change Δ√I of the expected amplitudes for a
    small change of the object. Source: Nocedal & Wright, Numerical Optimization, 10.3.

    Args:
        unknowns: object and probe.
        frames: this rank's frames.
        batches: view indices.
        direction: shaped like the object.
        probing_rad: largest change of the object, radians through the whole volume.
        mesh: the ranks.
    """
    largest = unknowns.slab.largest(float(torch.linalg.vector_norm(direction, torch.inf)))
    if largest == 0:
        return 0.0
    part = probing_rad / largest
    # If ranks share planes, memory has no room for a copy of the object; an empty object needs no copy.
    empty = not unknowns.object.any()
    saved = None if unknowns.volume.shares_planes or empty else unknowns.object.detach().clone()
    sums = torch.zeros(2, dtype=torch.float64, device=mesh.device)
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
        sums += torch.stack([difference.square().sum(dtype=torch.float64), len(difference) * frames.mask.sum()])
    unknowns.volume.gather()
    mesh.sum(sums)
    return 2 * float(sums[0] / sums[1]) / part**2


def _amplitude(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp]) -> Tensor:
    """Return the expected amplitude (view, y, x) of good pixels."""
    return frames.mask * torch.sqrt(unknowns.expected_intensity(frames.views[batch]))
