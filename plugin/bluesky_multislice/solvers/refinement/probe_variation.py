"""How the probe changes along the scan: a few shapes that all views share, and how much of each a view has.

Orthogonal probe relaxation (Odstrčil et al., Opt. Express 24, 8360 (2016)), by descent: shapes and weights move against
their gradients, each divided by its curvature.
"""

from collections.abc import Callable, Mapping
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import on_device
from bluesky_multislice.solvers.optimisers import gradient_of
from bluesky_multislice.solvers.refinement.schedule import Schedule

_PART = 0.5
"""Part of the way to the bottom of a batch's misfit that a gradient moves weights and shapes."""

_LEAST_WEIGHT = 0.1
"""Weight that every view counts with in a shape's curvature, so that shapes do not leap while weights are small."""


class ProbeVariation:
    """What is added to the first mode of each view's probe.

    Args:
        probe: complex (y, x), the first mode; shapes start as what shifts, intensity and lens errors change in it.
        views: number of views of the scan.
        number: of shapes.
        schedule: from which epoch they move, how strongly, and the largest weight.
        relative_step: epochs done → factor on the steps.
    """

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
        self._seen = torch.zeros(views, device=probe.device)
        self._epochs_done = 0
        self._prepare()

    @property
    def shapes(self) -> Tensor:
        """Complex (variation, y, x), orthogonal to each other and of the probe's energy."""
        return torch.view_as_complex(self._parts)

    @property
    def active(self) -> bool:
        """Whether they move in this epoch."""
        return self._epochs_done + 1 >= self._schedule.from_epoch

    @property
    def tensors(self) -> list[Tensor]:
        """What is fitted."""
        return [self.weights, self._parts]

    def see(self, views: NDArray[np.intp]) -> None:
        """Note the views whose gradients are added."""
        self._seen.index_add_(0, on_device(views, self._seen.device), torch.ones_like(self._seen[: len(views)]))

    def gradients(self) -> list[Tensor]:
        """Return the gradients, zero before the first backward pass, and how often each view is in them."""
        if not self.active:
            return []
        return [*map(gradient_of, self.tensors), self._seen]

    @torch.no_grad()
    def step(self) -> None:
        """Move against the gradients, and set them to zero.

        A shape's energy is the curvature of a weight's misfit, the sum of the squared weights that of a shape's.
        """
        if not self.active:
            self._seen.zero_()
            return
        of_weights, of_shapes, seen = self.gradients()
        length = _PART * self._schedule.strength * self._relative_step(self._epochs_done)
        met, squares = seen > 0, seen[:, None] * (self.weights.square() + _LEAST_WEIGHT**2)
        times = torch.where(met, seen, 1)[:, None]
        # Views that were not met have no gradient: without looking which, they stay.
        self.weights -= length * of_weights * met[:, None] / (times * self._energy)
        self.weights.clamp_(-self._schedule.bound, self._schedule.bound)
        curvature = torch.where(met.any(), squares.sum(0), 1)
        self._parts -= length * of_shapes / curvature[:, None, None, None]
        for gradient in (of_weights, of_shapes, seen):
            gradient.zero_()

    @torch.no_grad()
    def tidy(self) -> None:
        """Make the shapes orthogonal and of the probe's energy, the one that changes most first; no frame changes."""
        if not self.weights.any():
            return
        left, triangle = torch.linalg.qr(self.weights)
        turned, strength, rows = torch.linalg.svd(triangle @ self._parts.flatten(1), full_matrices=False)
        size = self._energy**0.5
        self._parts.copy_((size * rows).view_as(self._parts))
        self.weights.copy_(left @ turned * strength / size)

    @torch.no_grad()
    def end_epoch(self) -> None:
        """Tidy up, shorten the steps, and start to move when it is time."""
        self.tidy()
        self._epochs_done += 1
        self._prepare()

    def state(self) -> dict[str, Tensor]:
        """Return weights, shapes and what else is needed to go on, by name."""
        numbers = torch.tensor([self._epochs_done, self._energy], dtype=torch.float64)
        return {"variation/numbers": numbers, "variation/weights": self.weights, "variation/shapes": self._parts}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        epochs, self._energy = state["variation/numbers"].tolist()
        self._epochs_done = int(epochs)
        self.weights.copy_(state["variation/weights"])
        self._parts.copy_(state["variation/shapes"])
        self._prepare()

    def _prepare(self) -> None:
        for tensor in self.tensors:
            tensor.requires_grad_(self.active)


def _first_shapes(probe: Tensor, number: int) -> Tensor:
    """Return orthogonal shapes (variation, y, x) of a probe's energy: itself, what shifts change, then lens errors."""
    fy, fx = (torch.fft.fftfreq(n, device=probe.device) for n in probe.shape)
    spectrum = torch.fft.fft2(probe)
    shapes = [probe]
    for degree in count(1):
        if len(shapes) >= number:
            break
        for power in range(degree + 1):
            bend = fy[:, None] ** (degree - power) * fx**power
            shapes.append(torch.fft.ifft2(1j * bend * spectrum))
    parts = torch.view_as_real(torch.stack(shapes[:number])).flatten(1)
    basis = torch.linalg.qr(parts.T)[0].T * probe.abs().square().sum().sqrt()
    return torch.view_as_complex(basis.reshape(number, *probe.shape, 2).contiguous())
