"""Variation of the probe along the scan: a few shapes common to all views, with weights per view.

Orthogonal probe relaxation (Odstrčil et al., Opt. Express 24, 8360 (2016)) by gradient descent. The gradients of
shapes and weights are divided by their curvature.
"""

from collections.abc import Callable, Mapping
from itertools import count
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import on_device
from bluesky_multislice.solvers.kept_state import named_numbers, read_numbers
from bluesky_multislice.solvers.optimisers import gradient_of
from bluesky_multislice.solvers.refinement.schedule import Schedule

_STEP_FRACTION = 0.5
"""Fraction of the step to the minimum of a batch's misfit by which a gradient changes weights and shapes."""

_LEAST_WEIGHT = 0.1
"""Smallest weight of a view in a shape's curvature; limits the steps while weights are small."""


class ProbeVariation:
    """Shapes added to the first mode of the probe, with a weight per view.

    Args:
        probe: first mode, complex (y, x). The initial shapes are its changes by intensity, shifts and aberrations.
        views: number of views of the scan.
        number: number of shapes.
        schedule: first epoch, strength, and largest weight.
        relative_step: number of epochs done → factor on the steps.
    """

    STATE_VERSION: ClassVar[int] = 2

    def __init__(
        self,
        probe: Tensor,
        *,
        views: int,
        number: int,
        schedule: Schedule,
        relative_step: Callable[[int], float],
    ) -> None:
        self._schedule, self._relative_step = schedule, relative_step
        self._energy = float(probe.abs().square().sum())
        self.weights = torch.zeros((views, number), device=probe.device)
        self._parts = torch.view_as_real(_first_shapes(probe, number)).contiguous()
        self._view_counts = torch.zeros(views, device=probe.device)
        self._epochs_done = 0
        self._prepare()

    @property
    def shapes(self) -> Tensor:
        """Complex (variation, y, x), mutually orthogonal, each with the energy of the probe."""
        return torch.view_as_complex(self._parts)

    @property
    def active(self) -> bool:
        """Whether shapes and weights are fitted in this epoch."""
        return self._epochs_done + 1 >= self._schedule.from_epoch

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The fitted tensors by name."""
        return {"variation/weights": self.weights, "variation/shapes": self._parts}

    @torch.no_grad()
    def start_from(self, shapes: Tensor, weights: Tensor) -> None:
        """Set initial shapes and weights; surplus ones are left out, and missing ones keep their planned shapes.

        Args:
            shapes: complex (variation, y, x), strongest first, in the unit of the probe.
            weights: (view, variation).
        """
        number = min(len(shapes), len(self._parts))
        self._parts[:number] = torch.view_as_real(shapes[:number].to(self._parts.device, torch.complex64))
        self.weights[:, :number] = weights[:, :number].to(self.weights)

    def count_views(self, views: NDArray[np.intp]) -> None:
        """Count the views whose gradients are summed."""
        self._view_counts.index_add_(
            0, on_device(views, self._view_counts.device), torch.ones_like(self._view_counts[: len(views)])
        )

    def gradients(self) -> dict[str, Tensor]:
        """Return the gradients, zero before the first backward pass, and the number of times each view was added."""
        if not self.active:
            return {}
        gradients = {name: gradient_of(tensor) for name, tensor in self.tensors.items()}
        return {**gradients, "variation/view_counts": self._view_counts}

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the negative gradients, and set the gradients to zero.

        The curvature of a weight is the energy of its shape; that of a shape is the sum of its squared weights.
        """
        if not self.active:
            self._view_counts.zero_()
            return
        of_weights, of_shapes, counts = self.gradients().values()
        length = _STEP_FRACTION * self._schedule.strength * self._relative_step(self._epochs_done)
        used, squares = counts > 0, counts[:, None] * (self.weights.square() + _LEAST_WEIGHT**2)
        times = torch.where(used, counts, 1)[:, None]
        # The mask keeps the weights of unused views without a synchronisation.
        self.weights -= length * of_weights * used[:, None] / (times * self._energy)
        self.weights.clamp_(-self._schedule.bound, self._schedule.bound)
        curvature = torch.where(used.any(), squares.sum(0), 1)
        self._parts -= length * of_shapes / curvature[:, None, None, None]
        for gradient in (of_weights, of_shapes, counts):
            gradient.zero_()

    @torch.no_grad()
    def orthogonalise(self) -> None:
        """Make the shapes orthogonal with the probe's energy, largest variation first; the frames do not change."""
        if not self.weights.any():
            return
        left, triangle = torch.linalg.qr(self.weights)
        rotation, strength, rows = torch.linalg.svd(triangle @ self._parts.flatten(1), full_matrices=False)
        norm = self._energy**0.5
        self._parts.copy_((norm * rows).view_as(self._parts))
        self.weights.copy_(left @ rotation * strength / norm)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Orthogonalise the shapes, shorten the steps, and start to fit when the first epoch is reached."""
        self.orthogonalise()
        self._epochs_done += 1
        self._prepare()

    def state(self) -> dict[str, Tensor]:
        """Return weights, shapes and numbers by name."""
        numbers = {"epochs": self._epochs_done, "energy": self._energy}
        return named_numbers("variation", self.STATE_VERSION, **numbers) | self.tensors

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned; see ``Stateful``."""
        epochs, self._energy = read_numbers(state, "variation", self.STATE_VERSION, "epochs", "energy")
        self._epochs_done = int(epochs)
        for name, tensor in self.tensors.items():
            tensor.copy_(state[name])
        self._prepare()

    def _prepare(self) -> None:
        for tensor in self.tensors.values():
            tensor.requires_grad_(self.active)


def _first_shapes(probe: Tensor, number: int) -> Tensor:
    """Return orthogonal shapes (variation, y, x) with the probe's energy: the probe, its shifts, then aberrations."""
    fy, fx = (torch.fft.fftfreq(n, device=probe.device) for n in probe.shape)
    spectrum = torch.fft.fft2(probe)
    shapes = [probe]
    for degree in count(1):
        if len(shapes) >= number:
            break
        for power in range(degree + 1):
            aberration = fy[:, None] ** (degree - power) * fx**power
            shapes.append(torch.fft.ifft2(1j * aberration * spectrum))
    parts = torch.view_as_real(torch.stack(shapes[:number])).flatten(1)
    basis = torch.linalg.qr(parts.T)[0].T * probe.abs().square().sum().sqrt()
    return torch.view_as_complex(basis.reshape(number, *probe.shape, 2).contiguous())
