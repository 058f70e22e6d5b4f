"""Transfers between the host and an accelerator that do not wait for work that is queued there."""

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor


def on_device(values: ArrayLike | Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Return an array as a tensor on a device.

    An accelerator gets it from pinned memory by a copy that is queued behind the work it already has: a copy from
    pageable memory would hold the host until that work is done.

    Args:
        values: on the host.
        device: where the tensor goes.
        dtype: of the tensor; None keeps that of the values.
    """
    tensor = torch.as_tensor(values if isinstance(values, Tensor) else np.asarray(values), dtype=dtype)
    if device.type == "cpu" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class LateNumber:
    """Reads a number from an accelerator one call late, so that the host does not wait for what it has just queued.

    A call returns the number of the call before, 0 the first time. On a processor it returns its own at once.
    """

    def __init__(self) -> None:
        self._coming: tuple[Tensor, torch.Event] | None = None

    def read(self, number: Tensor) -> float:
        """Queue the copy of a 0-d tensor, and return the number of the call before."""
        if number.device.type == "cpu":
            return number.item()
        here, arrived = torch.empty((), dtype=number.dtype, pin_memory=True), torch.Event(number.device)
        here.copy_(number.detach(), non_blocking=True)
        arrived.record(torch.accelerator.current_stream(number.device))
        last, self._coming = self._coming, (here, arrived)
        if last is None:
            return 0.0
        last[1].synchronize()
        return last[0].item()
