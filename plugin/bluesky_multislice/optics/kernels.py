"""Choice between PyTorch's general kernels and this package's fused kernels on an accelerator.

Fused kernels are compiled by Triton and do several operations in one pass over memory. A process uses them after
``use_kernels`` has recorded which of them agree with the general kernels on its device.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch

from bluesky_multislice.choices import Kernels

Part = Literal["slices", "turns", "descent", "graphs"]


@dataclass(frozen=True)
class KernelChoice:
    """The kernels that a process uses.

    Attributes:
        asked: the recipe's setting.
        fused: parts of the computation that use fused kernels.
        reason: why these were chosen, as the end of a sentence.
        device_type: type of the device that the choice applies to.
        differences: by part, the largest measured relative difference from the general kernels.
    """

    asked: Kernels = "general"
    fused: tuple[Part, ...] = ()
    reason: str = "no others were requested"
    device_type: str = "cpu"
    differences: Mapping[Part, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{'fused for ' + ', '.join(self.fused) if self.fused else 'general'}: {self.reason}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain lists and numbers, for JSON."""
        return asdict(self)


_choice = KernelChoice()


def use_kernels(choice: KernelChoice) -> None:
    """Set the kernels of this process."""
    global _choice
    _choice = choice


def kernels_in_use() -> KernelChoice:
    """Return the kernels of this process."""
    return _choice


def uses_fused(part: Part, device: torch.device) -> bool:
    """Return whether a part of the computation uses fused kernels on a device."""
    return part in _choice.fused and device.type == _choice.device_type
