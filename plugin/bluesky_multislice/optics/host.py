"""Transfers between host and accelerator that do not wait for queued work."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def on_device(values: ArrayLike | Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return an array as a tensor on a device.

    The copy to an accelerator starts from pinned memory and is queued behind earlier work. A copy from pageable memory
    would make the host wait for that work.

    Args:
        values: array or tensor on the host.
        device: target device.
        dtype: type of the tensor; None keeps the type of the values.
    """
    tensor = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values), dtype=dtype)
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class DeferredScalar:
    """Reads a scalar from an accelerator one call late, so that the host does not wait for work it has just queued.

    Each call returns the value of the previous call, and 0 the first time. On a CPU it returns the current value.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.Event] | None = None

    def read(self, number: Tensor) -> float:
        """Queue the copy of a 0-d tensor, and return the value of the previous call."""
        if number.device.type == "cpu":
            return number.item()
        host_copy, copied = torch.empty((), dtype=number.dtype, pin_memory=True), torch.Event(number.device)
        host_copy.copy_(number.detach(), non_blocking=True)
        copied.record(torch.accelerator.current_stream(number.device))
        previous, self._pending = self._pending, (host_copy, copied)
        if previous is None:
            return 0.0
        previous[1].synchronize()
        return previous[0].item()
