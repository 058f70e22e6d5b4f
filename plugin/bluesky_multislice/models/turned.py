"""The sample turned for the views at one angle, while rows of its planes are on their way from other ranks and back."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.parallel import Rows, Slab


class RotatedObject:
    """RotatedObject planes whose rows travel while something else is computed.

    Gradients stop at what has arrived, and go on from the planes once they have come back. Every rank of the angle goes
    through the same steps in the same order: ``arrive``, a backward pass, ``send_back``, ``finish``.

    Args:
        planes: (part, slice, y, x), parts δ and β, the rows held; they are sent at once.
        slab: which rows are held.
        wanted: for each rank of the angle its rows, from ``Slab.rows_needed``.
    """

    def __init__(self, planes: Tensor, slab: Slab, wanted: Sequence[Rows]) -> None:
        self._planes, self._slab, self._wanted = planes, slab, wanted
        self._coming = slab.send(planes.detach(), wanted)
        self._arrived: Tensor

    def arrive(self) -> Tensor:
        """Wait, and return the rows wanted (part, slice, y, x), at which gradients stop."""
        self._arrived = self._coming.arrive().requires_grad_()
        return self._arrived

    def send_back(self) -> None:
        """Send the gradients to where their rows came from, without waiting."""
        gradient = self._arrived.grad
        gradient = torch.zeros_like(self._arrived) if gradient is None else gradient
        self._coming = self._slab.send_back(gradient, self._wanted)
        del self._arrived

    def finish(self) -> None:
        """Wait for what comes back, and go on with the gradients."""
        _Carried.apply(self._planes, self._coming.arrive()).backward()


class _Carried(torch.autograd.Function):
    """A number whose gradient in the planes is the one given.

    ``Tensor.backward`` with a gradient imports PyTorch's symbolic shapes and SymPy, two seconds of every rank's start.
    """

    @staticmethod
    def forward(ctx, planes: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return planes.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.gradient, None
