"""Final fit steps by conjugate gradients over all frames at once, without the noise of batches.

Polak–Ribière direction, preconditioned by the exposure of each voxel; restarted if it is not a descent
direction (Nocedal & Wright, Numerical Optimization, 5.2).
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers
from bluesky_multislice.solvers.line_search import curvature
from bluesky_multislice.solvers.misfit import add_gradients
from bluesky_multislice.solvers.priors import Penalty, Scales
from bluesky_multislice.solvers.unknowns import Unknowns
from bluesky_multislice.solvers.views import ViewSet


class ConjugateGradients:
    """Conjugate gradients on the object alone; a step takes about as long as 1.5 epochs.

    Args:
        unknowns: object and probe.
        frames: this rank's frames to fit.
        weight: factor on the gradient of each voxel, broadcasts to the object.
        noise: see ``Scales``.
        mesh: the ranks.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(self, unknowns: Unknowns, frames: ViewSet, weight: Tensor, noise: float, mesh: Mesh) -> None:
        self._unknowns, self._frames, self._settings, self._mesh = unknowns, frames, unknowns.settings, mesh
        self._weight, self._noise = weight, noise
        self._batches = frames.batches(unknowns.settings.batch_views, None)
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def step(self) -> float:
        """Move to the minimum along the next direction; return the mean misfit before the step."""
        loss, gradient = self._gradient()
        steepest = self._weight * gradient
        direction = steepest
        if self._before is not None:
            last_gradient, last_steepest, last_direction = self._before
            dot = self._unknowns.volume.dot
            part = dot(steepest, gradient - last_gradient) / dot(last_steepest, last_gradient)
            direction = steepest + max(part, 0.0) * last_direction
            if dot(gradient, direction) <= 0:
                direction = steepest
        self._before = gradient, steepest, direction
        second_derivative = self._curvature(direction)
        if second_derivative > 0:
            self._unknowns.move(-self._unknowns.volume.dot(gradient, direction) / second_derivative * direction)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Return the state by name; its tensors have the volume's shape."""
        found = named_numbers("polish", self.STATE_VERSION) | {"volume/polish_weight": self._weight}
        if self._before is not None:
            found["volume/polish_gradient"], _, found["volume/polish_direction"] = self._before
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        read_numbers(state, "polish", self.STATE_VERSION)
        self._weight = state["volume/polish_weight"]
        if "volume/polish_gradient" in state:
            gradient, direction = state["volume/polish_gradient"], state["volume/polish_direction"]
            self._before = gradient, self._weight * gradient, direction

    def _gradient(self) -> tuple[float, Tensor]:
        """Return the mean misfit and the gradient of misfit and regularisers; 0 where it would violate a bound."""
        settings = self._settings
        total = add_gradients(self._unknowns, self._frames, self._batches)
        gradient = self._unknowns.gradients()[0]
        self._unknowns.sum_small_gradients(self._mesh, total)
        self._unknowns.volume.sum_gradient(self._mesh, divisor=total[1])
        self._unknowns.volume.gather_gradient()
        self._penalty.add_gradient(self._unknowns.object.detach(), gradient)
        gradient = self._unknowns.gradients()[0].clone()
        self._unknowns.zero_gradients()
        if settings.positivity:
            gradient[(self._unknowns.object <= 0) & (gradient > 0)] = 0
        return float(total[0] / total[1]), gradient

    def _curvature(self, direction: Tensor) -> float:
        """Return the second derivative of misfit and regularisers along a direction."""
        settings, probing_rad = self._settings, self._settings.object_step_rad
        second_derivative = curvature(self._unknowns, self._frames, self._batches, direction, probing_rad, self._mesh)
        if second_derivative > 0 and settings.priors.weighted:
            part = probing_rad / self._unknowns.slab.largest(float(torch.linalg.vector_norm(direction, torch.inf)))
            slopes = [self._slope_of_penalty(by, direction) for by in (-part, part)]
            second_derivative += (slopes[1] - slopes[0]) / (2 * part)
        return second_derivative

    def _slope_of_penalty(self, by: float, direction: Tensor) -> float:
        gradient = torch.zeros_like(direction)
        self._penalty.add_gradient(self._unknowns.object.detach() + by * direction, gradient)
        return self._unknowns.volume.dot(gradient, direction)

    @property
    def _penalty(self) -> Penalty:
        return self._settings.priors.penalty(Scales(self._settings.object_step_rad, self._noise), self._unknowns.slab)
