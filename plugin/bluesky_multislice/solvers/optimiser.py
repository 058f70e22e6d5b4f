"""What moves the object: accelerated descent with its step from the data or the light, or Adam with a step by hand."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from bluesky_multislice.solvers.moments import load_moments, moments

OptimiserName = Literal["adam", "nesterov", "weighted"]

_PART_OF_THE_WAY = 0.2
"""Part of the way to the bottom of a batch's misfit that one gradient moves at once; with a momentum of
0.95 it is four times the way. Measured on a thick phantom: a third of it takes twice the epochs.
"""


WEIGHTED_MOMENTUM = 0.8
"""Some five batches of one angle light every pixel."""

_DARK_WEIGHT = 0.1
"""Part of the brightest pixel's light that is added to that of others, so that dark ones move little."""


class ObjectOptimiser:
    """Moves one tensor against its gradient.

    Nesterov's momentum (Sutskever, Martens, Dahl & Hinton, Proc. ICML 28, 1139 (2013)) starts with a length that
    ``start`` is given, from the data. Adam (Kingma & Ba 2015) has a step of its own; the floor under its second moment
    keeps still what the beam hardly reaches, where it would otherwise amplify noise. Weighted descent divides the
    gradient by the light of each pixel, which is the curvature of the amplitude misfit of far-field patterns: |probe|²
    summed over the views of the batch, as in the extended ptychographic engine (Maiden, Johnson & Li, Optica 4, 736
    (2017), who add momentum too).

    Args:
        volume: what is moved, in place.
        name: of the method.
        factor: on the length that ``start`` is given.
        adam_step: step of Adam, in the volume's unit.
        adam_floor: part of the first gradient's largest value below which Adam moves voxels less.
        relative_step: epochs done → factor on the step.
        momentum: part of Nesterov's last move that goes on. A batch sees one angle or few: the mean of some twenty
            gradients, at 0.95, speaks for the half circle.
        largest: returns the largest of a number over all ranks that hold parts of the volume.
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
        momentum: float,
        largest: Callable[[float], float] = float,
    ) -> None:
        self._largest = largest
        self._factor, self._adam_floor, self._relative_step = factor, adam_floor, relative_step
        self._epochs_done = 0
        self._weight: Tensor | None = None
        self._length = {"adam": adam_step, "nesterov": 0.0, "weighted": (1 - WEIGHTED_MOMENTUM) * factor}[name]
        self._method: torch.optim.Optimizer
        if name == "adam":
            self._method = torch.optim.Adam([volume], lr=adam_step, betas=(0.9, 0.99), fused=True)
        else:
            going_on = momentum if name == "nesterov" else WEIGHTED_MOMENTUM
            self._method = torch.optim.SGD([volume], lr=0.0, momentum=going_on, nesterov=True, fused=True)
        self._floor_is_set = name != "adam"

    @property
    def waits(self) -> bool:
        """Whether it has to be started before it moves."""
        return self._length == 0

    @property
    def relative_step(self) -> float:
        """Step of the present epoch, relative to the first's."""
        return self._relative_step(self._epochs_done)

    def start(self, way_to_the_bottom: float, weight: Tensor) -> None:
        """Set the length of the first steps.

        Args:
            way_to_the_bottom: multiple of the weighted gradient that leads to the bottom of the misfit.
            weight: factor on the gradient, broadcasts to the volume.
        """
        self._weight = weight
        self._length = self._factor * _PART_OF_THE_WAY * way_to_the_bottom

    @torch.no_grad()
    def weigh(self, light: Tensor) -> None:
        """Divide the gradient by the light that belongs to it.

        Args:
            light: (y, x) Σ|probe|² of the views that the gradient is of, normalised as the gradient is.
        """
        (group,) = self._method.param_groups
        gradient = group["params"][0].grad
        # Radians of one plane are its part of those through the volume, and all planes move at once.
        gradient *= gradient.shape[-3] / ((1 - _DARK_WEIGHT) * light + _DARK_WEIGHT * self._largest(float(light.max())))

    @torch.no_grad()
    def step(self) -> None:
        """Move, and set the gradient to zero."""
        (group,) = self._method.param_groups
        if not self._floor_is_set:
            group["eps"] = max(self._adam_floor * self._largest(float(group["params"][0].grad.abs().max())), 1e-12)
            self._floor_is_set = True
        if self._weight is not None:
            group["params"][0].grad.mul_(self._weight)
        group["lr"] = self._length * self.relative_step
        self._method.step()
        self._method.zero_grad(set_to_none=False)

    def end_epoch(self) -> None:
        """Shorten the step."""
        self._epochs_done += 1

    def halve_steps(self) -> None:
        """Forget the momentum, and go on with half the length."""
        self._length /= 2
        self._method.state.clear()

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers, by name; what is called ``volume/…`` lies as the volume does."""
        (group,) = self._method.param_groups
        numbers = [self._epochs_done, self._length, group.get("eps", 0.0), self._floor_is_set]
        found = {"object/numbers": torch.tensor(numbers, dtype=torch.float64)}
        if self._weight is not None:
            found["volume/weight"] = self._weight
        for name, tensor in moments(self._method, ["object"]).items():
            found[f"volume/{name}" if tensor.ndim else name] = tensor
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        (group,) = self._method.param_groups
        epochs, self._length, floor, floor_is_set = state["object/numbers"].tolist()
        self._epochs_done, self._floor_is_set = int(epochs), bool(floor_is_set)
        if "eps" in group:
            group["eps"] = floor
        self._weight = state.get("volume/weight")
        load_moments(self._method, ["object"], {name.removeprefix("volume/"): value for name, value in state.items()})
