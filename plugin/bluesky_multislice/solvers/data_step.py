"""The step of gradient descent from the data, so that none is set by hand."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


@torch.no_grad()
def step_to_the_bottom(
    unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp], probing_rad: float, mesh: Mesh
) -> float:
    """Return the multiple of the object's gradient that leads to the bottom of the misfit, seen as a parabola.

    Its slope is the gradient's, its curvature that of Gauss and Newton, 2·Σ(Δ√I)² over the pixels, where Δ√I is how
    the expected amplitudes answer to a small change along the gradient. Source of the metric: Nocedal & Wright,
    Numerical Optimization, 10.3.

    Args:
        unknowns: with the mean gradient of all ranks' batches.
        frames: this rank's frames.
        batch: indices of those that the gradient is of; empty on a rank that has none left.
        probing_rad: largest change, radians through the whole volume.
        mesh: the ranks.

    Returns:
        a length; 0 where the frames do not change along the gradient.
    """
    (gradient, *_), saved = unknowns.gradients(), unknowns.object.detach().clone()
    largest = float(gradient.abs().max())
    if largest == 0:
        return 0.0
    change = gradient * (probing_rad / largest)
    answer = torch.zeros(2, dtype=torch.float64, device=mesh.device)
    if len(batch):
        before = _amplitude(unknowns, frames, batch)
        unknowns.object -= change
        difference = _amplitude(unknowns, frames, batch) - before
        unknowns.object.copy_(saved)
        answer += torch.stack([difference.square().sum(), len(batch) * frames.mask.sum()])
    mesh.sum(answer)
    curvature = 2 * float(answer[0] / answer[1])
    return float((gradient * change).sum()) / curvature * probing_rad / largest if curvature > 0 else 0.0


def _amplitude(unknowns: Unknowns, frames: ViewSet, batch: NDArray[np.intp]) -> Tensor:
    """Return the expected amplitude (view, y, x) of good pixels."""
    return frames.mask * torch.sqrt(unknowns.expect(frames.views[batch]))
