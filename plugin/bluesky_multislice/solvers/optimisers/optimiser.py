"""What moves the object: accelerated descent with its step from the data or the light, or Adam with a step by hand."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bluesky_multislice.optics import uses_fused
from bluesky_multislice.solvers.optimisers.descent import Adam, Nesterov, gradient_of, named, of_name
from bluesky_multislice.solvers.priors import NO_WEIGHTS, Bounds, Weights

OptimiserName = Literal["adam", "nesterov", "weighted"]

_PART_OF_THE_WAY = 0.2
"""Part of the way to the bottom of a batch's misfit that one gradient moves at once; with a momentum of
0.95 it is four times the way. Measured on a thick phantom: a third of it takes twice the epochs.
"""


_FIRST_MOMENTUM, _MOMENTUM_PER_EPOCH, _LAST_MOMENTUM = 0.8, 0.02, 0.92
"""Part of weighted descent's last move that goes on: in the first epoch, more per epoch, and at most.

Some five batches of one angle light every pixel, and a fit that has settled gains by remembering more of them. Measured
on three slices: the worst correlates with the truth after 7 epochs as after 16 with 0.8 throughout. 0.9 from the start
loses two of the first epochs.
"""

WEIGHTED_LENGTH = 0.2
"""Part of the way to the bottom of a batch's misfit that one weighted gradient moves at once."""

_DARK_WEIGHT = 0.1
"""Part of the brightest pixel's light that is added to that of others, so that dark ones move little."""


def weighted_momentum(epochs_done: int) -> float:
    """Return the part of weighted descent's last move that goes on after so many epochs."""
    return min(_FIRST_MOMENTUM + _MOMENTUM_PER_EPOCH * epochs_done, _LAST_MOMENTUM)


@dataclass(frozen=True, eq=False)
class OnePass:
    """What a step takes that adds the prior and keeps the bounds in its one pass over the volume.

    Attributes:
        pixels: 0-d, what the gradient of the frames is divided by.
        weights: of the regularisers, of one voxel; None where their gradient is in that of the frames.
    """

    pixels: Tensor
    weights: Weights | None


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
        self._of_light: Tensor | None = None
        self._length = {"adam": adam_step, "nesterov": 0.0, "weighted": WEIGHTED_LENGTH * factor}[name]
        self._adam = Adam(volume, floor=0.0) if name == "adam" else None
        self._method = self._adam or Nesterov(volume, momentum)
        self._weighted = self._method if name == "weighted" and isinstance(self._method, Nesterov) else None
        self._prepare()

    @property
    def waits(self) -> bool:
        """Whether it has to be started before it moves."""
        return self._length == 0

    @property
    def takes_all_in_one_pass(self) -> bool:
        """Whether the next step may be ``step_in_one_pass``: fused kernels serve, and its length is known."""
        known = not self.waits and (self._adam is None or self._adam.floor > 0)
        return known and self._volume.dtype == torch.float32 and uses_fused("descent", self._volume.device)

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
    def weigh(self, light: Tensor, *, in_step: bool = False) -> None:
        """Divide the gradient by the light that belongs to it.

        Args:
            light: (y, x) Σ|probe|² of the views that the gradient is of, normalised as the gradient is.
            in_step: leave it to ``step_in_one_pass``.
        """
        # Radians of one plane are its part of those through the volume, and all planes move at once.
        planes, most = self._volume.shape[-3], self._largest(light.max())
        weight = planes / ((1 - _DARK_WEIGHT) * light + _DARK_WEIGHT * most)
        if in_step:
            self._of_light = weight
        else:
            gradient_of(self._volume).mul_(weight)

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

    @torch.no_grad()
    def step_in_one_pass(self, one_pass: OnePass, around: tuple[Tensor, Tensor], bounds: Bounds) -> None:
        """Move, keep within bounds and set the gradient to zero; volume and gradient exchange their memory.

        Args:
            one_pass: what the pass takes of the prior.
            around: the rows (part, z, 0 or 1, x) before and behind those held.
            bounds: what the volume is kept within.
        """
        # Triton is there where fused kernels serve only.
        from bluesky_multislice.solvers.optimisers.triton_descent import Pull, move

        volume, gradient = self._volume, gradient_of(self._volume)
        pull = Pull(one_pass.weights or NO_WEIGHTS, *around, one_pass.pixels)
        weight = self._weight if self._of_light is None else self._of_light
        move(volume, gradient, self._method.count_step(self._length * self.relative_step), pull, weight, bounds)
        volume.data, gradient.data = gradient.data, volume.data
        gradient.zero_()
        self._of_light = None

    def end_epoch(self) -> None:
        """Shorten the step."""
        self._epochs_done += 1
        self._prepare()

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
        self._prepare()
        if self._adam is not None:
            self._adam.floor = floor
        self._weight = state.get("volume/weight")
        self._method.load(of_name("object", {name.removeprefix("volume/"): value for name, value in state.items()}))

    def _prepare(self) -> None:
        if self._weighted is not None:
            self._weighted.momentum = weighted_momentum(self._epochs_done)
