"""Accelerators: which there are, what they hold, and what PyTorch needs to know of them.

The only module that says what a GPU is called. NVIDIA's and AMD's are ``cuda``, Intel's are ``xpu``; where any of them
is meant, a person and a plan say ``gpu``. Whether there is one, PyTorch's driver library counts without a context. What
one is called and how much it holds only a context tells: a process of its own opens it and ends, so that whoever plans
keeps none. PyTorch has asked for memory through ``torch.accelerator`` since 2.9 only, but through a device's own module
in every version that serves.
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
"""What ranks on devices of a type talk by: its maker's own library (AMD's goes by the name of NVIDIA's)."""

_MASKS = {
    "cuda": ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
    "xpu": ("ZE_AFFINITY_MASK", "ONEAPI_DEVICE_SELECTOR"),
}
"""Variables of the environment that hide devices from a process."""

_ANSWER_S = 120.0
"""Longest that a process may take to import PyTorch from a busy disk and to open a context."""


@dataclass(frozen=True)
class Accelerator:
    """One accelerator of this machine.

    Attributes:
        name: what its maker calls it.
        memory_bytes: all of its memory.
    """

    name: str
    memory_bytes: int


def accelerator_type() -> str | None:
    """Return the type of accelerator that PyTorch is built for, of those that serve here; None without."""
    built_for = _built_for()
    return built_for if built_for in _MASKS else None


def accelerator_count() -> int:
    """Return how many accelerators this process sees; it opens no context."""
    kind = accelerator_type()
    return 0 if kind is None else _device_count(kind)


def _built_for() -> str | None:
    built_for = torch.accelerator.current_accelerator()
    return None if built_for is None else built_for.type


def _device_count(kind: str) -> int:
    return torch.get_device_module(kind).device_count()


def visible_accelerators() -> tuple[Accelerator, ...]:
    """Return the accelerators that this process sees; it opens no context, another process does.

    Raises:
        PlanError: they are there, but PyTorch cannot use them.
    """
    if not accelerator_count():
        return ()
    return _described(tuple((name, os.environ.get(name)) for names in _MASKS.values() for name in names))


@functools.cache
def _described(masks: tuple[tuple[str, str | None], ...]) -> tuple[Accelerator, ...]:
    """Return what another process finds; asked again where other devices are hidden."""
    # As a file: with -m, Python would import all of optics first. -P: files beside it must not pass for libraries.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
        answer, said = done.stdout.strip(), done.stderr.strip()
    except (subprocess.SubprocessError, OSError) as error:
        answer, said = "", str(error)
    found = json.loads(answer.splitlines()[-1]) if answer else []
    if not found:
        raise PlanError(
            "A GPU that is there answers PyTorch.",
            got=f"{said.splitlines()[-1] if said else 'none that PyTorch can use'}.",
            remedy="mend the driver, or install PyTorch's build for it; or compute on processors: device cpu.",
        )
    return tuple(Accelerator(*each) for each in found)


def chosen_type(device: str) -> str:
    """Return the type of device that a choice means in this process: ``cpu``, ``cuda`` or ``xpu``.

    Args:
        device: of the recipe: ``auto`` takes an accelerator if there is one, ``gpu``, ``cuda`` and ``xpu`` insist.

    Raises:
        PlanError: it insists on a GPU that this process does not see.
    """
    found = accelerator_type() if device != "cpu" and accelerator_count() else None
    if device == "cpu" or (device == "auto" and found is None):
        return "cpu"
    if found is None or device not in ("auto", "gpu", found):
        raise PlanError(
            f"The device {device} needs a GPU that PyTorch can use.",
            got=f"none: {why_none()}." if found is None else f"those of type {found}.",
            remedy="use device auto or cpu, or mend what hides the GPU: environment, driver, or PyTorch's build.",
        )
    return found


def why_none() -> str:
    """Return why this process sees no accelerator."""
    kind = accelerator_type()
    if kind is None:
        return f"PyTorch {torch.__version__} is built without any"
    masks = masks_of(kind)
    hidden = f" with {masks} in the environment" if masks else ""
    return f"PyTorch {torch.__version__} is built for {kind} and sees no device{hidden}"


def backend_of(device: torch.device) -> str:
    """Return the collective backend that belongs to a device."""
    return _BACKENDS[device.type]


def select(device: torch.device) -> None:
    """Make an accelerator the one that this process computes on; without an index, or a processor, nothing changes."""
    if device.type != "cpu" and device.index is not None:
        torch.get_device_module(device).set_device(device)


def synchronise(device: torch.device) -> None:
    """Return when all that this process gave an accelerator to do is done; a processor has nothing to wait for."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize(device)


def name_of(device: torch.device) -> str | None:
    """Return what an accelerator that this process computes on is called; None of a processor."""
    return None if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)


def identifier_of(device: torch.device) -> str:
    """Return what tells an accelerator from all others of its machine, whatever number it has in this process."""
    properties = torch.get_device_module(device).get_device_properties(device)
    return str(getattr(properties, "uuid", None) or masks_of(device.type))


def masks_of(kind: str) -> str:
    """Return the variables that hide accelerators of a type from this process, as they are set."""
    return " ".join(f"{name}={os.environ[name]!r}" for name in _MASKS[kind] if name in os.environ)


def total_memory(device: torch.device) -> int:
    """Return the bytes of an accelerator that this process computes on, or of the machine."""
    if device.type == "cpu":
        return psutil.virtual_memory().total
    return torch.get_device_module(device).get_device_properties(device).total_memory


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device, of the machine for a processor."""
    if device.type == "cpu":
        return psutil.virtual_memory().available
    return torch.get_device_module(device).mem_get_info(device)[0]


def peak_memory(device: torch.device) -> int:
    """Return the most bytes of an accelerator that this process has held: PyTorch's, and all that is held beside them.

    What the driver, the Fourier transforms and the exchange hold is known only together with what other processes hold
    of the device; ranks have theirs alone.
    """
    module = torch.get_device_module(device)
    free, total = module.mem_get_info(device)
    beside = total - free - module.memory_reserved(device)
    return module.max_memory_reserved(device) + max(0, beside)


def _all_of_this_process() -> list[Accelerator]:
    """Return what this process sees; it opens a context."""
    kind, count = accelerator_type(), accelerator_count()
    found = [torch.get_device_module(kind).get_device_properties(index) for index in range(count)]
    return [Accelerator(each.name, each.total_memory) for each in found]


if __name__ == "__main__":
    print(json.dumps([astuple(each) for each in _all_of_this_process()]))
