"""What moves the object: accelerated descent with its step from the data or the light, or Adam with a step by hand."""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from bluesky_multislice.solvers.descent import Adam, Nesterov, gradient_of, named, of_name

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

    Nesterov's momentum starts with a length that ``start`` is given, from the data. Adam has a step of its own; the
    floor under its second moment keeps still what the beam hardly reaches, where it would otherwise amplify noise.
    Weighted descent divides the
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
        largest: Callable[[Tensor], Tensor] = torch.as_tensor,
    ) -> None:
        self._volume, self._largest = volume, largest
        self._factor, self._adam_floor, self._relative_step = factor, adam_floor, relative_step
        self._epochs_done = 0
        self._weight: Tensor | None = None
        self._length = {"adam": adam_step, "nesterov": 0.0, "weighted": (1 - WEIGHTED_MOMENTUM) * factor}[name]
        self._adam = Adam(volume, floor=0.0) if name == "adam" else None
        going_on = momentum if name == "nesterov" else WEIGHTED_MOMENTUM
        self._method = self._adam or Nesterov(volume, going_on)

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
        gradient = gradient_of(self._volume)
        # Radians of one plane are its part of those through the volume, and all planes move at once.
        gradient *= gradient.shape[-3] / ((1 - _DARK_WEIGHT) * light + _DARK_WEIGHT * self._largest(light.max()))

    @torch.no_grad()
    def step(self) -> None:
        """Move, and set the gradient to zero."""
        gradient = gradient_of(self._volume)
        if self._adam is not None and self._adam.floor == 0:
            largest = float(self._largest(torch.linalg.vector_norm(gradient, torch.inf)))
            self._adam.floor = max(self._adam_floor * largest, 1e-12)
        if self._weight is not None:
            gradient.mul_(self._weight)
        self._method.step(self._length * self.relative_step)

    def end_epoch(self) -> None:
        """Shorten the step."""
        self._epochs_done += 1

    def halve_steps(self) -> None:
        """Forget the momentum, and go on with half the length."""
        self._length /= 2
        self._method.forget()

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers, by name; what is called ``volume/…`` lies as the volume does."""
        numbers = [self._epochs_done, self._length, 0.0 if self._adam is None else self._adam.floor]
        found = {"object/numbers": torch.tensor(numbers, dtype=torch.float64)}
        if self._weight is not None:
            found["volume/weight"] = self._weight
        for name, tensor in named("object", self._method.state()).items():
            found[f"volume/{name}" if tensor.ndim else name] = tensor
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        epochs, self._length, floor = state["object/numbers"].tolist()
        self._epochs_done = int(epochs)
        if self._adam is not None:
            self._adam.floor = floor
        self._weight = state.get("volume/weight")
        self._method.load(of_name("object", {name.removeprefix("volume/"): value for name, value in state.items()}))
