"""Optimiser of the probe: weighted descent if the object uses it, else Adam."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers
from bluesky_multislice.solvers.optimisers import (
    WEIGHTED_LENGTH,
    Adam,
    Descent,
    Nesterov,
    weighted_momentum,
    with_prefix,
    without_prefix,
)
from bluesky_multislice.solvers.refinement.schedule import Schedule


class ProbeOptimiser:
    """Updates the probe along its negative gradient.

    Adam has a fixed step length. Weighted descent divides by the curvature of the amplitude misfit, |object|² summed
    over the views of the batch, with |object| ≈ 1. It keeps the probe fixed in the first epoch at least, so that the
    probe does not absorb the contrast of an object that is still empty.

    Args:
        parts: (mode, y, x, 2) real and imaginary part, updated in place.
        weighted: use weighted descent; False: Adam.
        step: step of Adam, in units of ``parts``, or factor on the weighted step; 0 keeps the probe fixed.
        schedule: first epoch, strength, and the factor by which the power may differ from ``power``.
        power: Σ|probe|² from the frames' intensity, in units of ``parts``; None: that of the initial probe.
        relative_step: number of epochs done → factor on the step.
    """

    STATE_VERSION: ClassVar[int] = 2

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
        """Whether the probe is fitted in this epoch."""
        return self._step > 0 and self._epochs_done + 1 >= self._from_epoch

    @torch.no_grad()
    def precondition(self, illumination: Tensor) -> None:
        """Divide the gradient by its curvature.

        Args:
            illumination: 0-d, Σ|probe|² over all pixels and the views of the gradient, with the same normalisation.
        """
        if self._parts.grad is not None:
            self._parts.grad *= self._parts.square().sum() / illumination

    @torch.no_grad()
    def step(self) -> None:
        """Take a step, clip the power to its bounds, and set the gradient to zero."""
        if not self.active:
            return
        self._method.step(self._step * self._relative_step(self._epochs_done))
        power = self._parts.square().sum()
        self._parts *= (power.clamp(*self._powers) / power).sqrt()

    def end_epoch(self) -> None:
        """Shorten the step, and start to fit when the first epoch is reached."""
        self._epochs_done += 1
        self._prepare()

    def halve_steps(self) -> None:
        """Halve the step length and reset the momentum."""
        self._step /= 2
        self._method.reset()

    def state(self) -> dict[str, Tensor]:
        """Return the state by name."""
        least, most = self._powers
        numbers = {"epochs": self._epochs_done, "step": self._step, "least_power": least, "most_power": most}
        own = named_numbers("probe", self.STATE_VERSION, **numbers)
        return own | with_prefix("probe/parts", self._method.state())

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        names = ("epochs", "step", "least_power", "most_power")
        epochs, self._step, least, most = read_numbers(state, "probe", self.STATE_VERSION, *names)
        self._epochs_done, self._powers = int(epochs), (least, most)
        self._method.load(without_prefix("probe/parts", state))
        self._prepare()

    def _prepare(self) -> None:
        if self._weighted is not None:
            self._weighted.momentum = weighted_momentum(self._epochs_done)
        self._parts.requires_grad_(self.active)
