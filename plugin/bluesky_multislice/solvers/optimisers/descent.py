"""The two methods that move a tensor against its gradient, with PyTorch's kernels.

They take the functions behind PyTorch's optimisers: the classes would import its compiler, a second of every start.
"""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from bluesky_multislice.optics import in_memory_order

_BETA1, _BETA2 = 0.9, 0.99
"""Parts of Adam's first and second moment that go on."""

_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class Moments(NamedTuple):
    """What a step takes and moves, beside what it moves.

    Attributes:
        length: of the step.
        tensors: the mean of the gradients, or the last move, and the mean of their squares where there is one.
        momentum: part of the first that goes on.
        squares: part of the second that goes on.
        numbers: 0-d float64, of a method with two of them: factors on the first and on the root of the second that take
            away their bias, and the floor under that root.
    """

    length: float
    tensors: tuple[Tensor, ...]
    momentum: float
    squares: float = 0.0
    numbers: tuple[Tensor, ...] = ()


class Descent(Protocol):
    """Moves one tensor against its gradient."""

    def step(self, length: float) -> None:
        """Move by a step of some length, and set the gradient to zero."""
        ...

    def count_step(self, length: float) -> Moments:
        """Return what a step of some length takes, for a caller that moves in its stead."""
        ...

    def forget(self) -> None:
        """Go on from rest."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what it remembers of earlier steps, by name; nothing before the first."""
        ...

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        ...


class Nesterov:
    """Nesterov's momentum (Sutskever, Martens, Dahl & Hinton, Proc. ICML 28, 1139 (2013)).

    Args:
        moved: what is moved, in place.
        momentum: part of the last move that goes on.

    Attributes:
        momentum: as above.
    """

    def __init__(self, moved: Tensor, momentum: float) -> None:
        self._moved, self.momentum = moved, momentum
        self._buffer: Tensor | None = None

    @torch.no_grad()
    def step(self, length: float) -> None:
        """See ``Descent``."""
        gradient, (buffer,) = gradient_of(self._moved), self.count_step(length).tensors
        moved, uphill, buffer = (in_memory_order(part, self._moved) for part in (self._moved, gradient, buffer))
        sgd(
            [moved],
            [uphill],
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
    def count_step(self, length: float) -> Moments:
        """See ``Descent``."""
        if self._buffer is None:
            self._buffer = torch.zeros_like(self._moved)
        return Moments(length, (self._buffer,), self.momentum)

    def forget(self) -> None:
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
        moved: what is moved, in place.
        floor: added to the root of the second moment, in the unit of the gradient.

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
        moved, uphill, first, second = (in_memory_order(part, self._moved) for part in parts)
        adam(
            [moved],
            [uphill],
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
    def count_step(self, length: float) -> Moments:
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

    def forget(self) -> None:
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


def named(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state under names that begin with that of what is moved."""
    return {f"{name}.{key}": value for key, value in state.items()}


def of_name(name: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state that ``named`` has put there."""
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
