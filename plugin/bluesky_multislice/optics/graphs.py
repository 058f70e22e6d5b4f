"""Captured graphs: the many small kernels of a function and of its gradient, captured once per shape and replayed.

For small waves, launching a kernel takes longer than the kernel itself. Replaying a captured graph launches all kernels
with one call. A graph always uses the same memory: inputs are copied into it and results out of it. The memory is in
use from a replay until the replay of its gradient; calls in between run without a graph, and so do functions that
cannot be captured.
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
"""Largest first input, in elements; kernels on larger tensors take longer than their launch."""

_MOST_KEPT = 4
"""Largest number of captured functions that are kept."""

_CALLS_BEFORE_CAPTURE = 2
"""Calls with the same shapes before they are captured; a capture takes as long as about five calls."""


def bytes_of_graphs(numbers: int, slices: int) -> int:
    """Return the largest accelerator memory held by graphs of the slice loop; 0 if waves are too large for graphs.

    Args:
        numbers: complex numbers of the waves that pass the slices together.
        slices: slices of the object; a graph stores one wave per slice and about six inputs, results and gradients.
    """
    return 8 * _MOST_KEPT * numbers * (slices + 6) if numbers <= _LARGEST else 0


class Graph(Protocol):
    """A graph that records and replays operations on a device."""

    def capture(self, function: Callable[[], None]) -> None:
        """Record the operations of a function on the device."""
        ...

    def replay(self) -> None:
        """Repeat the recorded operations on the current contents of their memory."""
        ...


class AcceleratorGraph:
    """A native graph of the accelerator, such as a CUDA graph.

    Args:
        device: the accelerator.
        before: a captured graph that is always replayed before this one; both share one memory pool.

    Attributes:
        stream: the stream of the capture.
        graph: PyTorch's graph.
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
    """A function of tensors and its gradient, captured for inputs of one set of shapes.

    Args:
        function: function of tensors only; it keeps alive everything else that it reads on the device.
        inputs: example inputs with the final shapes, types and devices.
        new_graph: makes a graph, given the graph that is replayed before it.
    """

    def __init__(self, function: Function, inputs: tuple[Tensor, ...], new_graph: Callable[..., Graph]) -> None:
        self._function = function
        self._inputs = [tensor.detach().clone().requires_grad_(_wants_gradient(tensor)) for tensor in inputs]
        self._differentiated = [tensor for tensor in self._inputs if tensor.requires_grad]
        self._lease: Callable[[], object | None] = lambda: None
        # A first call outside of the capture, because PyTorch's and Triton's initialisation cannot be captured.
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
        """Whether no gradient of the last replay is still to be computed."""
        return self._lease() is None

    def take(self) -> "_Lease":
        """Reserve the memory until the returned object is deleted."""
        lease = _Lease()
        self._lease = weakref.ref(lease)
        return lease

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Return the function's value."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.detach().copy_(given)
        self._forward.replay()
        return self._output.detach().clone()

    def backward(self, gradient: Tensor) -> list[Tensor | None]:
        """Return the gradients of the last replay with respect to the inputs; None for inputs without gradient."""
        self._gradient.copy_(gradient)
        self._backward.replay()
        gradients = iter(self._gradients)
        return [next(gradients).clone() if tensor.requires_grad else None for tensor in self._inputs]

    def _run(self) -> None:
        with torch.enable_grad():
            self._output = self._function(*self._inputs)

    def _run_back(self) -> None:
        self._gradients = torch.autograd.grad(self._output, self._differentiated, self._gradient)


class _Lease:
    """Reserves the memory of a captured function while it exists."""


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
    """A cache of captured functions.

    Args:
        new_graph: makes a graph on a device, given the graph that is replayed before it.
    """

    def __init__(self, new_graph: Callable[..., Graph]) -> None:
        self._new_graph = new_graph
        self._kept: OrderedDict[Hashable, Captured | None] = OrderedDict()
        self._calls: Counter[Hashable] = Counter()

    def __call__(self, key: Hashable, function: Function, *inputs: Tensor) -> Tensor:
        """Return the function's value, by a replay if possible.

        Args:
            key: everything that the function depends on except its inputs and their shapes, types and devices.
            function: function of tensors only; it keeps alive everything else that it reads on the device.
            inputs: the tensors.
        """
        full_key = key, tuple((each.shape, each.dtype, each.device, _wants_gradient(each)) for each in inputs)
        if full_key not in self._kept:
            self._calls[full_key] += 1
            if self._calls[full_key] <= _CALLS_BEFORE_CAPTURE:
                return function(*inputs)
            self._keep(full_key, self._captured(function, inputs))
        captured = self._kept[full_key]
        self._kept.move_to_end(full_key)
        return function(*inputs) if captured is None or not captured.is_free else _Replayed.apply(captured, *inputs)

    @property
    def kept(self) -> list[Captured]:
        """The captured functions, ordered by last use, most recent last."""
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
            _log.warning("running without a captured graph: %s", error)
            return None


def _wants_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


_replays = Replays(AcceleratorGraph)


def replayed(key: Hashable, function: Function, *inputs: Tensor) -> Tensor:
    """Return a function's value, by a captured graph if graphs are in use on the device and the tensors are small.

    See ``Replays`` for the arguments.
    """
    if inputs[0].numel() > _LARGEST or not uses_fused("graphs", inputs[0].device):
        return function(*inputs)
    return _replays(key, function, *inputs)
