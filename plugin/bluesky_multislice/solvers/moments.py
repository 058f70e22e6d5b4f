"""What PyTorch's optimisers remember of earlier steps, by the names of what they move."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def moments(method: torch.optim.Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors that an optimiser keeps, such as ``positions.exp_avg``; none before its first step.

    Args:
        method: the optimiser.
        names: of what it moves, in its order.
    """
    return {
        f"{name}.{key}": value
        for name, moved in zip(names, _moved(method), strict=True)
        for key, value in method.state.get(moved, {}).items()
        if isinstance(value, Tensor)
    }


def load_moments(method: torch.optim.Optimizer, names: Sequence[str], state: Mapping[str, Tensor]) -> None:
    """Have an optimiser remember what ``moments`` returned; other names in ``state`` do no harm."""
    method.state.clear()
    fused = bool(method.defaults.get("fused"))
    for name, moved in zip(names, _moved(method), strict=True):
        found = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        if "step" in found and not fused:
            # Where it is not fused, Adam counts its steps on the CPU.
            found["step"] = found["step"].cpu()
        if found:
            method.state[moved] = found


def _moved(method: torch.optim.Optimizer) -> list[Tensor]:
    return [tensor for group in method.param_groups for tensor in group["params"]]
