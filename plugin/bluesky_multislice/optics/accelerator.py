"""Accelerators of this machine: their number, names, memory and collective backends.

The only module that knows PyTorch's device types: ``cuda`` for NVIDIA and AMD, ``xpu`` for Intel. Recipes and plans use
``gpu`` for any of them. Counting devices needs no context on the device. Names and memory sizes need one; a separate
process opens it and ends, so that a planning process holds none. Memory is queried through the device's own module,
because ``torch.accelerator`` only supports it since PyTorch 2.9.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import astuple, dataclass

import psutil
import torch

from bluesky_multislice.errors import PlanError

_BACKENDS = {"cpu": "gloo", "cuda": "nccl", "xpu": "xccl"}
"""Backend of torch.distributed by device type: the vendor's own library (AMD's has the name of NVIDIA's)."""

_MASKS = {
    "cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"),
}
"""Environment variables that hide devices from a process."""

_ANSWER_S = 120.0
"""Timeout of the process that imports PyTorch, perhaps from a busy disk, and opens a context."""


@dataclass(frozen=True)
class Accelerator:
    """One accelerator of this machine.

    Attributes:
        name: the vendor's name of the device.
        memory_bytes: total memory.
    """

    name: str
    memory_bytes: int


def accelerator_type() -> str | None:
    """Return the supported accelerator type that PyTorch is built for; None for a build without one."""
    built_for = _built_for()
    return built_for if built_for in _MASKS else None


def accelerator_count() -> int:
    """Return the number of accelerators visible to this process, without opening a context."""
    kind = accelerator_type()
    return 0 if kind is None else _device_count(kind)


def _built_for() -> str | None:
    built_for = torch.accelerator.current_accelerator()
    return None if built_for is None else built_for.type


def _device_count(kind: str) -> int:
    return torch.get_device_module(kind).device_count()


def visible_accelerators() -> tuple[Accelerator, ...]:
    """Return the accelerators visible to this process; a separate process opens the context.

    Raises:
        PlanError: there are accelerators, but PyTorch cannot use them.
    """
    if not accelerator_count():
        return ()
    return _described(tuple((name, os.environ.get(name)) for names in _MASKS.values() for name in names))


@functools.cache
def _described(masks: tuple[tuple[str, str | None], ...]) -> tuple[Accelerator, ...]:
    """Return the devices found by a separate process; cached per setting of the visibility variables."""
    # Run as a file, because -m would import all of optics first. -P: modules beside the file must not hide libraries.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
        output, error_text = done.stdout.strip(), done.stderr.strip()
    except (subprocess.SubprocessError, OSError) as error:
        output, error_text = "", str(error)
    devices = json.loads(output.splitlines()[-1]) if output else []
    if not devices:
        raise PlanError(
            "PyTorch must be able to use the GPUs of this machine.",
            got=f"{error_text.splitlines()[-1] if error_text else 'none that PyTorch can use'}.",
            remedy="repair the driver, or install PyTorch's build for it; or compute on CPUs: device cpu.",
        )
    return tuple(Accelerator(*each) for each in devices)


def resolve_device_type(device: str) -> str:
    """Return the device type that a recipe's ``device`` means in this process: ``cpu``, ``cuda`` or ``xpu``.

    Args:
        device: ``auto`` uses an accelerator if there is one; ``gpu``, ``cuda`` and ``xpu`` require one.

    Raises:
        PlanError: a GPU is required, but none is visible to this process.
    """
    found = accelerator_type() if device != "cpu" and accelerator_count() else None
    if device == "cpu" or (device == "auto" and found is None):
        return "cpu"
    if found is None or device not in ("auto", "gpu", found):
        raise PlanError(
            f"The device {device} needs a GPU that PyTorch can use.",
            got=f"none: {why_no_accelerator()}." if found is None else f"those of type {found}.",
            remedy="use device auto or cpu, or make the GPU visible: check environment, driver and PyTorch's build.",
        )
    return found


def why_no_accelerator() -> str:
    """Return the reason why no accelerator is visible to this process."""
    kind = accelerator_type()
    if kind is None:
        return f"PyTorch {torch.__version__} is built without any"
    masks = visibility_settings(kind)
    hidden = f" with {masks} in the environment" if masks else ""
    return f"PyTorch {torch.__version__} is built for {kind} and sees no device{hidden}"


def backend_of(device: torch.device) -> str:
    """Return the backend of torch.distributed for a device."""
    return _BACKENDS[device.type]


def select(device: torch.device) -> None:
    """Make an accelerator the current device of this process; no effect for a CPU or a device without index."""
    if device.type != "cpu" and device.index is not None:
        torch.get_device_module(device).set_device(device)


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has finished all work of this process; no effect for a CPU."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def device_name(device: torch.device) -> str | None:
    """Return the vendor's name of an accelerator; None for a CPU."""
    return None if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)


def device_identifier(device: torch.device) -> str:
    """Return an identifier of an accelerator that is unique on its machine and independent of its index."""
    properties = torch.get_device_module(device).get_device_properties(device)
    return str(getattr(properties, "uuid", None) or visibility_settings(device.type))


def visibility_settings(kind: str) -> str:
    """Return the environment variables, as set, that hide accelerators of a type from this process."""
    return " ".join(f"{name}={os.environ[name]!r}" for name in _MASKS[kind] if name in os.environ)


def total_memory(device: torch.device) -> int:
    """Return the total memory in bytes of an accelerator, or of the machine for a CPU."""
    if device.type == "cpu":
        return psutil.virtual_memory().total
    return torch.get_device_module(device).get_device_properties(device).total_memory


def free_memory(device: torch.device) -> int:
    """Return the free memory in bytes of an accelerator, or of the machine for a CPU."""
    if device.type == "cpu":
        return psutil.virtual_memory().available
    return torch.get_device_module(device).mem_get_info(device)[0]


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of an accelerator in bytes: PyTorch's own peak plus all other memory in use now.

    The memory of the driver, the FFT plans and the collectives cannot be separated from that of other processes. Each
    rank has its device to itself.
    """
    module = torch.get_device_module(device)
    free, total = module.mem_get_info(device)
    outside_pytorch = total - free - module.memory_reserved(device)
    return module.max_memory_reserved(device) + max(0, outside_pytorch)


def _accelerators_with_context() -> list[Accelerator]:
    """Return the accelerators visible to this process; opens a context."""
    kind, count = accelerator_type(), accelerator_count()
    found = [torch.get_device_module(kind).get_device_properties(index) for index in range(count)]
    return [Accelerator(each.name, each.total_memory) for each in found]


if __name__ == "__main__":
    print(json.dumps([astuple(each) for each in _accelerators_with_context()]))
