"""What moves the probe: weighted descent with the object's weighted one, Adam otherwise."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bluesky_multislice.solvers.optimisers import (
    WEIGHTED_LENGTH,
    Adam,
    Descent,
    Nesterov,
    named,
    of_name,
    weighted_momentum,
)
from bluesky_multislice.solvers.refinement.schedule import Schedule


class ProbeOptimiser:
    """Moves the probe against its gradient.

    Adam has a step of its own. Weighted descent has the curvature of the amplitude misfit, |object|²
    summed over the views of the batch, where |object| ≈ 1; it rests in the first epoch at least, so that the probe does
    not take over what an object that is still empty does not explain.

    Args:
        parts: (mode, y, x, 2) real and imaginary part, moved in place.
        weighted: which of the two.
        step: of Adam, in the unit of ``parts``, or factor on the weighted step; 0 moves nothing.
        schedule: from which epoch it moves, how strongly, and the factor by which its power may leave ``power``.
        power: Σ|probe|² that the frames' light gives, in the unit of ``parts``; None is that of the start.
        relative_step: epochs done → factor on the step.
    """

    def __init__(
        self,
        parts: Tensor,
        *,
        weighted: bool,
        step: float,
        schedule: Schedule,
        power: float | None = None,
        relative_step: Callable[[int], float],
    ) -> None:
        self._parts, self._relative_step = parts, relative_step
        step *= schedule.strength
        self._step = step * WEIGHTED_LENGTH if weighted else step
        self._from_epoch = max(schedule.from_epoch, 2) if weighted else schedule.from_epoch
        power = float(parts.detach().square().sum()) if power is None else power
        self._powers = power / schedule.bound, power * schedule.bound
        self._epochs_done = 0
        self._weighted = Nesterov(parts, weighted_momentum(0)) if weighted else None
        self._method: Descent = self._weighted or Adam(parts, floor=1e-12)
        self._prepare()

    @property
    def active(self) -> bool:
        """Whether it moves in this epoch."""
        return self._step > 0 and self._epochs_done + 1 >= self._from_epoch

    @torch.no_grad()
    def weigh(self, light: Tensor) -> None:
        """Divide the gradient by its curvature.

        Args:
            light: 0-d, Σ|probe|² of the views that the gradient is of over all pixels, normalised as the gradient is.
        """
        if self._parts.grad is not None:
            self._parts.grad *= self._parts.square().sum() / light

    @torch.no_grad()
    def step(self) -> None:
        """Move, bring the power back within its bounds, and set the gradient to zero."""
        if not self.active:
            return
        self._method.step(self._step * self._relative_step(self._epochs_done))
        power = self._parts.square().sum()
        self._parts *= (power.clamp(*self._powers) / power).sqrt()

    def end_epoch(self) -> None:
        """Shorten the step, and start to move when it is time."""
        self._epochs_done += 1
        self._prepare()

    def halve_steps(self) -> None:
        """Forget the momentum, and go on with half the length."""
        self._step /= 2
        self._method.forget()

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers, by name."""
        numbers = torch.tensor([self._epochs_done, self._step, *self._powers], dtype=torch.float64)
        return {"probe/numbers": numbers, **named("probe/parts", self._method.state())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        epochs, self._step, *powers = state["probe/numbers"].tolist()
        self._epochs_done, self._powers = int(epochs), (powers[0], powers[1])
        self._method.load(of_name("probe/parts", state))
        self._prepare()

    def _prepare(self) -> None:
        if self._weighted is not None:
            self._weighted.momentum = weighted_momentum(self._epochs_done)
        self._parts.requires_grad_(self.active)
