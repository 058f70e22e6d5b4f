"""The object rotated for the views at one angle, with asynchronous exchange of its rows between ranks."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.parallel import Rows, Slab


class RotatedObject:
    """Planes of the rotated object, whose rows are exchanged while other work is done.

    Backpropagation has two parts: down to the received rows, and, after their gradients have returned, from the planes
    held by this rank. Every rank of the angle must call ``receive``, a backward pass, ``send_back`` and ``finish`` in
    this order.

    Args:
        planes: (part, slice, y, x), parts δ and β, the rows held; sending starts at once.
        slab: the rows held.
        needed: rows that each rank of the angle needs, from ``Slab.rows_needed``.
    """

    def __init__(self, planes: Tensor, slab: Slab, needed: Sequence[Rows]) -> None:
        self._planes, self._slab, self._needed = planes, slab, needed
        self._pending = slab.send(planes.detach(), needed)
        self._received: Tensor

    def receive(self) -> Tensor:
        """Wait for the needed rows and return them (part, slice, y, x) as a leaf tensor."""
        self._received = self._pending.receive().requires_grad_()
        return self._received

    def send_back(self) -> None:
        """Start sending the gradients of the received rows to the ranks that hold these rows."""
        gradient = self._received.grad
        gradient = torch.zeros_like(self._received) if gradient is None else gradient
        self._pending = self._slab.send_back(gradient, self._needed)
        del self._received

    def finish(self) -> None:
        """Wait for the gradients of the rows held, and backpropagate them through the rotation."""
        _InjectGradient.apply(self._planes, self._pending.receive()).backward()


class _InjectGradient(torch.autograd.Function):
    """Returns a scalar whose gradient with respect to the planes is the given one.

    ``Tensor.backward`` with a gradient would import PyTorch's symbolic shapes and SymPy: two seconds per rank.
    """

    @staticmethod
    def forward(ctx, planes: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient
        return planes.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.gradient, None
