"""Small arrays made on the host, brought to where a wave is computed without making the host wait."""

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
