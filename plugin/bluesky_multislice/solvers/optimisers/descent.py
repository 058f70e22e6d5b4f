"""Nesterov's method and Adam for a single tensor, on PyTorch's kernels.

They call the functions behind PyTorch's optimisers, because the optimiser classes import the compiler, which takes a
second at every start.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from bluesky_multislice.optics import in_memory_order

_BETA1, _BETA2 = 0.9, 0.99
"""Decay rates of Adam's first and second moment."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Moments(NamedTuple):
    """Inputs of an update step; its tensors are updated in place.

    Attributes:
        length: step length.
        tensors: running mean of the gradients (Adam) or momentum buffer, and for Adam the running mean of their
            squares.
        momentum: decay rate of the first tensor.
        squares: decay rate of the second tensor.
        numbers: 0-d float64, for Adam: bias corrections of the first moment and of the root of the second moment, and
            the floor added to that root.
    """

    length: float
    tensors: tuple[Tensor, ...]
    momentum: float
    squares: float = 0.0
    numbers: tuple[Tensor, ...] = ()


class Descent(Protocol):
    """Updates one tensor along its negative gradient."""

    def step(self, length: float) -> None:
        """Take a step of this length, and set the gradient to zero."""
        ...

    def fused_inputs(self, length: float) -> Moments:
        """Count a step and return its inputs, for a fused kernel that performs the update itself."""
        ...

    def reset(self) -> None:
        """Reset the momentum and the moments."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the state by name; empty before the first step."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        ...


class Nesterov:
    """Nesterov's momentum (Sutskever, Martens, Dahl & Hinton, Proc. ICML 28, 1139 (2013)).

    Args:
        moved: tensor to update in place.
        momentum: fraction of the last update that is added to the next.

    Attributes:
        momentum: as above.
    """

    def __init__(self, moved: Tensor, momentum: float) -> None:
        self._moved, self.momentum = moved, momentum
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def step(self, length: float) -> None:
        """See ``Descent``."""
        gradient, (buffer,) = gradient_of(self._moved), self.fused_inputs(length).tensors
        moved, gradient_in_order, buffer = (
            in_memory_order(part, self._moved) for part in (self._moved, gradient, buffer)
        )
        sgd(
            [moved],
            [gradient_in_order],
            [buffer],
            fused=True,
            lr=length,
            momentum=self.momentum,
            nesterov=True,
            dampening=0.0,
            weight_decay=0.0,
            maximize=False,
        )
        gradient.zero_()

    @torch.no_grad()
    def fused_inputs(self, length: float) -> Moments:
        """See ``Descent``."""
        if self._buffer is None:
            self._buffer = torch.zeros_like(self._moved)
        return Moments(length, (self._buffer,), self.momentum)

    def reset(self) -> None:
        """See ``Descent``."""
        self._buffer = None

    def state(self) -> dict[str, Tensor]:
        """See ``Descent``."""
        return {} if self._buffer is None else {"momentum_buffer": self._buffer}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See ``Descent``."""
        self._buffer = state.get("momentum_buffer")


class Adam:
    """Adam (Kingma & Ba 2015).

    Args:
        moved: tensor to update in place.
        floor: added to the root of the second moment, in units of the gradient.

    Attributes:
        floor: as above.
    """

    def __init__(self, moved: Tensor, floor: float) -> None:
        self._moved, self.floor = moved, floor
        self._moments: tuple[Tensor, Tensor, Tensor] | None = None

    @torch.no_grad()
    def step(self, length: float) -> None:
        """See ``Descent``."""
        gradient = gradient_of(self._moved)
        *moments, steps = self._kept()
        parts = (self._moved, gradient, *moments)
        moved, gradient_in_order, first, second = (in_memory_order(part, self._moved) for part in parts)
        adam(
            [moved],
            [gradient_in_order],
            [first],
            [second],
            [],
            [steps],
            fused=True,
            lr=length,
            beta1=_BETA1,
            beta2=_BETA2,
            eps=self.floor,
            amsgrad=False,
            weight_decay=0.0,
            maximize=False,
        )
        gradient.zero_()

    @torch.no_grad()
    def fused_inputs(self, length: float) -> Moments:
        """See ``Descent``."""
        *moments, steps = self._kept()
        steps += 1
        count = steps.double()
        unbias = (1 - _BETA1**count).reciprocal(), (1 - _BETA2**count).rsqrt()
        return Moments(length, tuple(moments), _BETA1, _BETA2, (*unbias, torch.full_like(count, self.floor)))

    def _kept(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._moments is None:
            steps = torch.zeros((), dtype=torch.float32, device=self._moved.device)
            self._moments = torch.zeros_like(self._moved), torch.zeros_like(self._moved), steps
        return self._moments

    def reset(self) -> None:
        """See ``Descent``."""
        self._moments = None

    def state(self) -> dict[str, Tensor]:
        """See ``Descent``."""
        return {} if self._moments is None else dict(zip(_MOMENTS, self._moments, strict=True))

    def load(self, state: Mapping[str, Tensor]) -> None:
        """See ``Descent``."""
        self._moments = None
        if _MOMENTS[0] in state:
            first, second, steps = (state[name].to(self._moved.device) for name in _MOMENTS)
            self._moments = first, second, steps


def gradient_of(tensor: Tensor) -> Tensor:
    """Return the gradient, zero before the first backward pass."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad


def with_prefix(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state with ``name.`` prefixed to its keys."""
    return {f"{name}.{key}": value for key, value in state.items()}


def without_prefix(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state that ``with_prefix`` stored under ``name``."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
