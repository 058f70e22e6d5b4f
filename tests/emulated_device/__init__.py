"""An accelerator to test on where there is none: its tensors say ``cuda:0`` and hold memory of the processor.

Real numbers come out of whole reconstructions, under the rules of a GPU: tensors of different devices do not mix, a
tensor has no ``numpy``, streams order what is copied beside them, collectives follow NCCL's rules over gloo. Every
synchronisation and upload is logged with file and line; operators and the bytes that they move are counted.

It proves nothing about CUDA's kernels, GPU memory, NCCL itself, or speed. ``install`` turns it on in a process, before
PyTorch is asked which accelerator there is; nothing turns it off again, so tests run it in processes of their own.
"""

import os
import sys
from pathlib import Path

from emulated_device.library import load, why_not
from emulated_device.log import LOG, DeviceError, Note

__all__ = ["LOG", "DeviceError", "Note", "environment", "install", "why_not"]


def install(devices: int = 1, memory_bytes: int = 80 * 10**9) -> None:
    """Give this process accelerators of type cuda, before anything imports PyTorch, which looks for them once.

    Args:
        devices: how many.
        memory_bytes: what each says that it holds.
    """
    if "torch" in sys.modules:
        raise ImportError("the emulated device has to be installed before PyTorch is imported")
    load(devices)
    from emulated_device import tensor, torch_modules

    tensor.register()
    torch_modules.replace(devices, memory_bytes)


def environment(devices: int = 1) -> dict[str, str]:
    """Return variables under which Python, and what it starts, has emulated devices from its beginning."""
    startup = str(Path(__file__).with_name("startup"))
    paths = [startup, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"EMULATED_DEVICES": str(devices), "PYTHONPATH": os.pathsep.join(paths)}
