"""Many small kernels captured once per shape, and replayed by one call: a function of tensors, and its gradient.

Small waves make an accelerator wait for its next kernel longer than that takes. A captured graph starts them all at
once. It reads and writes the same memory each time: inputs are copied there, and results from there. Between a replay
and that of its gradient the memory is taken; whoever comes meanwhile computes without a graph, as does whoever brings
what cannot be captured.
"""

import logging
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.kernels import uses_fused

_log = logging.getLogger(__name__)

Function = Callable[..., Tensor]

_LARGEST = 2**21
"""Most numbers of the first input: kernels that work on more take longer than their start."""

_MOST_KEPT = 4
"""Captured functions that are kept; the one used last stands last."""

_MET_BEFORE = 2
"""How often shapes come without being captured, which takes as long as some five calls."""


def bytes_of_graphs(numbers: int, slices: int) -> int:
    """Return the most memory that graphs of a slice loop hold of an accelerator, 0 where none are captured.

    Args:
        numbers: complex numbers of the waves that go through the slices at once.
        slices: slices of the object; their waves are stored, and some six more are inputs, results and gradients.
    """
    return 8 * _MOST_KEPT * numbers * (slices + 6) if numbers <= _LARGEST else 0


class Graph(Protocol):
    """What a function is captured in."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record what a function does on the device."""
        ...

    def replay(self) -> None:
        """Do it again, on what is now in the memory that it reads."""
        ...


class AcceleratorGraph:
    """A graph of the accelerator's own.

    Args:
        device: the accelerator.
        before: a captured graph that is always replayed before this one; both share the memory of what they pass on.

    Attributes:
        stream: on which it is captured.
        graph: what is captured.
    """

    def __init__(self, device: torch.device, before: "AcceleratorGraph | None" = None) -> None:
        self.stream = torch.Stream(device) if before is None else before.stream
        self.graph = torch.accelerator.Graph(pool=None if before is None else before.graph.pool())

    def capture(self, function: Callable[[], None]) -> None:
        """See ``Graph``."""
        with self.stream, self.graph:
            function()

    def replay(self) -> None:
        """See ``Graph``."""
        self.graph.replay()


class Captured:
    """A function of tensors and its gradient, captured for tensors like some.

    Args:
        function: of tensors alone; what else it reads on the device lives as long as it does.
        inputs: tensors such as it will get.
        new_graph: makes a graph, given the one that is replayed before it.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], new_graph: Callable[..., Graph]) -> None:
        self._function = function
        self._inputs = [tensor.detach().clone().requires_grad_(_wants_gradient(tensor)) for tensor in inputs]
        self._differentiated = [tensor for tensor in self._inputs if tensor.requires_grad]
        self._taken: Callable[[], object | None] = lambda: None
        # What PyTorch and Triton make at the first call of a kernel cannot be captured.
        self._run()
        self._gradient = torch.zeros_like(self._output)
        if self._differentiated:
            self._run_back()
        self._forward = new_graph(None)
        self._forward.capture(self._run)
        if self._differentiated:
            self._backward = new_graph(self._forward)
            self._backward.capture(self._run_back)

    @property
    def is_free(self) -> bool:
        """Whether nobody waits for the gradient of the last replay."""
        return self._taken() is None

    def take(self) -> "_Lease":
        """Take the memory until what is returned is dropped."""
        lease = _Lease()
        self._taken = weakref.ref(lease)
        return lease

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the function of tensors."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.detach().copy_(given)
        self._forward.replay()
        return self._output.detach().clone()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Return the gradient of the last replay in each input, None where none is wanted."""
        self._gradient.copy_(gradient)
        self._backward.replay()
        found = iter(self._gradients)
        return [next(found).clone() if tensor.requires_grad else None for tensor in self._inputs]

    def _run(self) -> None:
        with torch.enable_grad():
            self._output = self._function(*self._inputs)

    def _run_back(self) -> None:
        self._gradients = torch.autograd.grad(self._output, self._differentiated, self._gradient)


class _Lease:
    """Somebody waits for a gradient as long as this lives."""


class _Replayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, captured: Captured, *inputs: Tensor) -> Tensor:
        ctx.captured, ctx.lease = captured, captured.take()
        return captured.forward(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        found = ctx.captured.backward(gradients[0])
        ctx.lease = None
        return None, *found


class Replays:
    """Captured functions by what they depend on.

    Args:
        new_graph: makes a graph on a device, given the one that is replayed before it.
    """

    def __init__(self, new_graph: Callable[..., Graph]) -> None:
        self._new_graph = new_graph
        self._kept: OrderedDict[Hashable, Captured | None] = OrderedDict()
        self._met: Counter[Hashable] = Counter()

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> Tensor:
        """Return the function of tensors, by a replay where that can be.

        Args:
            key: what the function depends on beside its inputs, and their shapes, types and places.
            function: of tensors alone; what else it reads on the device lives as long as it does.
            inputs: the tensors.
        """
        whole = key, tuple((each.shape, each.dtype, each.device, _wants_gradient(each)) for each in inputs)
        if whole not in self._kept:
            self._met[whole] += 1
            if self._met[whole] <= _MET_BEFORE:
                return function(*inputs)
            self._keep(whole, self._captured(function, inputs))
        captured = self._kept[whole]
        self._kept.move_to_end(whole)
        return function(*inputs) if captured is None or not captured.is_free else _Replayed.apply(captured, *inputs)

    @property
    def kept(self) -> list[Captured]:
        """The captured functions, the one used last in the end."""
        return [captured for captured in self._kept.values() if captured is not None]

    def _keep(self, key: Hashable, captured: Captured | None) -> None:
        self._kept[key] = captured
        while len(self._kept) > _MOST_KEPT:
            self._kept.popitem(last=False)

    def _captured(self, function: Function, inputs: tuple[Tensor, ...]) -> Captured | None:
        device = inputs[0].device
        try:
            return Captured(function, inputs, lambda before: self._new_graph(device, before))
        except RuntimeError as error:
            _log.warning("computes without a captured graph: %s", error)
            return None


def _wants_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


_replays = Replays(AcceleratorGraph)


def replayed(key: Hashable, function: Function, *inputs: Tensor) -> Tensor:
    """Return a function of tensors, by a captured graph where those agree with it and the tensors are small.

    See ``Replays`` for the arguments.
    """
    if inputs[0].numel() > _LARGEST or not uses_fused("graphs", inputs[0].device):
        return function(*inputs)
    return _replays(key, function, *inputs)
