"""What moves the object: accelerated descent with its step from the data, or Adam with a step set by hand."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

OptimiserName = Literal["nesterov", "adam"]

_MOMENTUM = 0.95
"""A batch sees one angle or few: the mean of some twenty gradients speaks for the half circle."""

_PART_OF_THE_WAY = 0.1
"""Part of the way to the bottom of a batch's misfit that one gradient moves at once; with momentum it is twice the way.

Measured on a thick phantom: half of it takes twice the epochs, twice of it deposits noise of the first angles in what
later ones hardly see.
"""


class ObjectOptimiser:
    """Moves one tensor against its gradient.

    Nesterov's momentum (Sutskever, Martens, Dahl & Hinton, Proc. ICML 28, 1139 (2013)) starts with a length that
    ``start`` is given, from the data. Adam (Kingma & Ba 2015) has a step of its own; the floor under its second moment
    keeps still what the beam hardly reaches, where it would otherwise amplify noise.

    Args:
        volume: what is moved, in place.
        name: of the method.
        factor: on the length that ``start`` is given.
        adam_step: step of Adam, in the volume's unit.
        adam_floor: part of the first gradient's largest value below which Adam moves voxels less.
        relative_step: epochs done → factor on the step.
    """

    def __init__(
        self,
        volume: Tensor,
        *,
        name: OptimiserName,
        factor: float,
        adam_step: float,
        adam_floor: float,
        relative_step: Callable[[int], float],
    ) -> None:
        self._factor, self._adam_floor, self._relative_step = factor, adam_floor, relative_step
        self._epochs_done = 0
        self._length = adam_step if name == "adam" else 0.0
        self._method: torch.optim.Optimizer
        if name == "adam":
            self._method = torch.optim.Adam([volume], lr=adam_step, betas=(0.9, 0.99), fused=True)
        else:
            self._method = torch.optim.SGD([volume], lr=0.0, momentum=_MOMENTUM, nesterov=True)
        self._floor_is_set = name != "adam"

    @property
    def waits(self) -> bool:
        """Whether it has to be started before it moves."""
        return self._length == 0

    def start(self, way_to_the_bottom: float) -> None:
        """Set the length of the first steps.

        Args:
            way_to_the_bottom: multiple of the gradient that leads to the bottom of the misfit.
        """
        self._length = self._factor * _PART_OF_THE_WAY * way_to_the_bottom

    @torch.no_grad()
    def step(self) -> None:
        """Move, and set the gradient to zero."""
        (group,) = self._method.param_groups
        if not self._floor_is_set:
            group["eps"] = max(self._adam_floor * float(group["params"][0].grad.abs().max()), 1e-12)
            self._floor_is_set = True
        group["lr"] = self._length * self._relative_step(self._epochs_done)
        self._method.step()
        self._method.zero_grad(set_to_none=False)

    def end_epoch(self) -> None:
        """Shorten the step."""
        self._epochs_done += 1
