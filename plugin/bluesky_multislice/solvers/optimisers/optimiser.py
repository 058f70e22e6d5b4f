"""Optimisers of the object: descent with a step computed from the data or the illumination, or Adam."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bluesky_multislice.choices import OptimiserName
from bluesky_multislice.optics import uses_fused
from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers
from bluesky_multislice.solvers.optimisers.descent import Adam, Nesterov, gradient_of, with_prefix, without_prefix
from bluesky_multislice.solvers.priors import Bounds, Weights

_STEP_FRACTION = 0.2
"""Fraction of the line search's step to the minimum that one gradient moves.

With a momentum of 0.95 the total is four times the step to the minimum. On a thick phantom, a third of it takes twice
the epochs.
"""


_FIRST_MOMENTUM, _MOMENTUM_PER_EPOCH, _LAST_MOMENTUM = 0.8, 0.02, 0.92
"""Momentum of weighted descent: in the first epoch, increment per epoch, and upper limit.

About five batches of one angle expose every pixel; near convergence, averaging over more of them helps. For the worst
of three slices, 7 epochs give the correlation with the truth that a constant 0.8 gives after 16. A constant 0.9 loses
two of the first epochs.
"""

WEIGHTED_LENGTH = 0.2
"""Fraction of the step to the minimum of a batch's misfit that one weighted gradient moves."""

_DARK_WEIGHT = 0.1
"""Illumination added to that of every pixel, relative to the brightest pixel: dark pixels move less."""


def weighted_momentum(epochs_done: int) -> float:
    """Return the momentum of weighted descent after this many epochs."""
    return min(_FIRST_MOMENTUM + _MOMENTUM_PER_EPOCH * epochs_done, _LAST_MOMENTUM)


@dataclass(frozen=True, eq=False)
class FusedStep:
    """Inputs of a step that adds the regularisers and applies the bounds in one pass over the volume.

    Attributes:
        pixels: 0-d, number of pixels by which the gradient is divided.
        weights: regulariser weights per voxel; None if the gradient already contains the regularisers.
    """

    pixels: Tensor
    weights: Weights | None


@dataclass(frozen=True)
class DescentSettings:
    """Method of the object's optimiser, and its steps.

    Attributes:
        method: name of the method.
        factor: factor on a step length that is computed from the data.
        adam_step: step of Adam, in units of the volume.
        adam_floor: gradient below which Adam moves voxels less, relative to the largest first gradient.
        momentum: Nesterov's momentum. A batch contains one or few angles; 0.95 averages over about twenty gradients,
            and so over the whole angular range.
    """

    method: OptimiserName
    factor: float = 1.0
    adam_step: float = 0.0
    adam_floor: float = 0.0
    momentum: float = 0.95


class ObjectOptimiser:
    """Updates one tensor along its negative gradient.

    Nesterov's method gets its step length from the data through ``start``. Adam has a fixed step length; the floor
    added to its second moment suppresses noise in voxels with little exposure. Weighted descent divides the gradient by
    the illumination of each pixel, |probe|² summed over the views of the batch. This is the curvature of the amplitude
    misfit of far-field patterns, as in the extended ptychographic engine (Maiden, Johnson & Li, Optica 4, 736 (2017),
    who also use momentum).

    Args:
        volume: tensor to update in place.
        settings: method and its steps.
        relative_step: number of epochs done → factor on the step.
        largest: returns the maximum of a number over all ranks that store parts of the volume.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(
        self,
        volume: Tensor,
        settings: DescentSettings,
        relative_step: Callable[[int], float],
        *,
        largest: Callable[[Tensor], Tensor] = torch.as_tensor,
    ) -> None:
        self._volume, self._largest = volume, largest
        self._settings, self._relative_step = settings, relative_step
        self._epochs_done = 0
        self._weight: Tensor | None = None
        self._illumination_weight: Tensor | None = None
        lengths = {"adam": settings.adam_step, "nesterov": 0.0, "weighted": WEIGHTED_LENGTH * settings.factor}
        self._length = lengths[settings.method]
        self._adam = Adam(volume, floor=0.0) if settings.method == "adam" else None
        self._method = self._adam or Nesterov(volume, settings.momentum)
        self._weighted = self._method if settings.method == "weighted" and isinstance(self._method, Nesterov) else None
        self._prepare()

    @property
    def needs_first_step(self) -> bool:
        """Whether ``start`` must be called before the first step."""
        return self._length == 0

    @property
    def can_fuse_step(self) -> bool:
        """Whether ``fused_step`` can take the next step: fused kernels are enabled and the step length is known."""
        known = not self.needs_first_step and (self._adam is None or self._adam.floor > 0)
        return known and self._volume.dtype == torch.float32 and uses_fused("descent", self._volume.device)

    @property
    def relative_step(self) -> float:
        """Step length of the present epoch relative to the first."""
        return self._relative_step(self._epochs_done)

    def start(self, minimising_step: float, weight: Tensor) -> None:
        """Set the length of the first steps.

        Args:
            minimising_step: multiple of the weighted gradient that minimises the misfit.
            weight: factor on the gradient, broadcasts to the volume.
        """
        self._weight = weight
        self._length = self._settings.factor * _STEP_FRACTION * minimising_step

    @torch.no_grad()
    def precondition(self, illumination: Tensor, *, in_step: bool = False) -> None:
        """Divide the gradient by the illumination of its views.

        Args:
            illumination: (y, x) Σ|probe|² over the views of the gradient, with the same normalisation.
            in_step: leave the division to ``fused_step``.
        """
        # The phase of one plane is 1/planes of the phase through the volume, and all planes move at once.
        planes, brightest = self._volume.shape[-3], self._largest(illumination.max())
        weight = planes / ((1 - _DARK_WEIGHT) * illumination + _DARK_WEIGHT * brightest)
        if in_step:
            self._illumination_weight = weight
        else:
            gradient_of(self._volume).mul_(weight)

    @torch.no_grad()
    def step(self) -> None:
        """Update the tensor, and set the gradient to zero."""
        gradient = gradient_of(self._volume)
        if self._adam is not None and self._adam.floor == 0:
            largest = float(self._largest(torch.linalg.vector_norm(gradient, torch.inf)))
            self._adam.floor = max(self._settings.adam_floor * largest, 1e-12)
        if self._weight is not None:
            gradient.mul_(self._weight)
        self._method.step(self._length * self.relative_step)

    @torch.no_grad()
    def fused_step(self, fused: FusedStep, around: tuple[Tensor, Tensor], bounds: Bounds) -> None:
        """Update the tensor, apply the bounds and set the gradient to zero; volume and gradient exchange their memory.

        Args:
            fused: pixels and regulariser weights.
            around: neighbouring rows (part, z, 0 or 1, x) before and after the stored rows.
            bounds: bounds of the volume.
        """
        # Imported here because Triton is installed only where fused kernels are used.
        from bluesky_multislice.solvers.optimisers.triton_descent import PriorTerm, move

        volume, gradient = self._volume, gradient_of(self._volume)
        prior = PriorTerm(fused.weights or Weights(), *around, fused.pixels)
        weight = self._weight if self._illumination_weight is None else self._illumination_weight
        move(volume, gradient, self._method.fused_inputs(self._length * self.relative_step), prior, weight, bounds)
        volume.data, gradient.data = gradient.data, volume.data
        gradient.zero_()
        self._illumination_weight = None

    def end_epoch(self) -> None:
        """Shorten the step for the next epoch."""
        self._epochs_done += 1
        self._prepare()

    def halve_steps(self) -> None:
        """Halve the step length and reset the momentum."""
        self._length /= 2
        self._method.reset()

    def state(self) -> dict[str, Tensor]:
        """Return the state by name; tensors named ``volume/…`` are distributed over the ranks like the volume."""
        floor = 0.0 if self._adam is None else self._adam.floor
        numbers = {"epochs": self._epochs_done, "length": self._length, "floor": floor}
        found = named_numbers("object", self.STATE_VERSION, **numbers)
        if self._weight is not None:
            found["volume/weight"] = self._weight
        for name, tensor in with_prefix("object", self._method.state()).items():
            found[f"volume/{name}" if tensor.ndim else name] = tensor
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        numbers = read_numbers(state, "object", self.STATE_VERSION, "epochs", "length", "floor")
        epochs, self._length, floor = numbers
        self._epochs_done = int(epochs)
        self._prepare()
        if self._adam is not None:
            self._adam.floor = floor
        self._weight = state.get("volume/weight")
        self._method.load(
            without_prefix("object", {name.removeprefix("volume/"): value for name, value in state.items()})
        )

    def _prepare(self) -> None:
        if self._weighted is not None:
            self._weighted.momentum = weighted_momentum(self._epochs_done)
