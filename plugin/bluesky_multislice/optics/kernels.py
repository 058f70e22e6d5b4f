"""Which kernels compute on an accelerator: PyTorch's, which are general, or fused ones of this package.

Fused kernels are compiled by Triton and take several operations in one pass over memory. A process uses them from when
it is told which of them agree with the general ones on its device.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

Kernels = Literal["auto", "general", "fused"]
Part = Literal["slices", "turns", "descent", "graphs"]


@dataclass(frozen=True)
class Choice:
    """The kernels that a process computes with.

    Attributes:
        asked: what the recipe says.
        fused: parts of the work that fused kernels do.
        reason: why these, as a sentence goes on.
        device_type: of the device that they are for.
        differences: by part, the largest relative difference from the general kernels that was seen.
    """

    asked: Kernels = "general"
    fused: tuple[Part, ...] = ()
    reason: str = "no others were asked for"
    device_type: str = "cpu"
    differences: Mapping[Part, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'fused for ' + ', '.join(self.fused) if self.fused else 'general'}: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)


_choice = Choice()


def use_kernels(choice: Choice) -> None:
    """Compute with these from now on."""
    global _choice
    _choice = choice


def kernels_in_use() -> Choice:
    """Return what this process computes with."""
    return _choice


def uses_fused(part: Part, device: torch.device) -> bool:
    """Return whether fused kernels do a part of the work on a device."""
    return part in _choice.fused and device.type == _choice.device_type
