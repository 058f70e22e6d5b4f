"""Functions of ``torch.cuda``, ``torch.accelerator`` and ``torch.distributed`` as an emulated device answers them."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from emulated_device.log import LOG, DeviceError
from emulated_device.memory import MEMORY
from emulated_device.streams import listen

_NAME = "emulated device"


class _Stream(torch.Stream):
    """``torch.cuda.Stream``."""

    def __new__(cls, device: Any = None, priority: int = 0) -> "_Stream":
        return super().__new__(cls, device=torch.device("cuda") if device is None else device)


class _Event(torch.Event):
    """``torch.cuda.Event``."""

    def __new__(cls, enable_timing: bool = False, blocking: bool = False, interprocess: bool = False) -> "_Event":
        return super().__new__(cls, device="cuda", enable_timing=enable_timing, blocking=blocking)

    def record(self, stream: torch.Stream | None = None) -> None:
        """Stand for all that a stream, or the thread's, was given."""
        super().record(torch.accelerator.current_stream() if stream is None else stream)

    def wait(self, stream: torch.Stream | None = None) -> None:
        """Let a stream, or the thread's, wait."""
        super().wait(torch.accelerator.current_stream() if stream is None else stream)


def replace(devices: int, memory_bytes: int) -> None:
    """Put the emulated device's functions into PyTorch's modules.

    Args:
        devices: how many devices there are.
        memory_bytes: what each says that it holds.
    """
    listen()
    cuda, accelerator = torch.cuda, torch.accelerator
    properties = SimpleNamespace(name=_NAME, total_memory=memory_bytes, major=9, minor=0, multi_processor_count=100)
    answers: dict[str, Any] = {
        "_lazy_init": lambda: None,
        "init": lambda: None,
        "is_available": lambda: devices > 0,
        "is_initialized": lambda: True,
        "device_count": lambda: devices,
        "current_device": lambda: torch._C._accelerator_getDeviceIndex(),  # noqa: SLF001
        "set_device": lambda device: accelerator.set_device_index(device),
        "get_device_name": lambda device=None: _NAME,
        "get_device_properties": lambda device=None: properties,
        "get_device_capability": lambda device=None: (9, 0),
        "synchronize": _synchronise,
        "mem_get_info": lambda device=None: (memory_bytes - MEMORY.bytes, memory_bytes),
        "memory_allocated": lambda device=None: MEMORY.bytes,
        "memory_reserved": lambda device=None: MEMORY.bytes,
        "max_memory_allocated": lambda device=None: MEMORY.peak,
        "max_memory_reserved": lambda device=None: MEMORY.peak,
        "reset_peak_memory_stats": lambda device=None: MEMORY.reset_peak(),
        "empty_cache": lambda: None,
        "Stream": _Stream,
        "Event": _Event,
        "stream": lambda stream: stream,
        "current_stream": lambda device=None: accelerator.current_stream(device),
        "default_stream": lambda device=None: torch.Stream(stream_id=0, device_index=0, device_type=1),
        "manual_seed": lambda seed: None,
        "manual_seed_all": lambda seed: None,
        "is_current_stream_capturing": lambda: False,
    }
    for name, answer in answers.items():
        setattr(cuda, name, answer)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(accelerator, name, answers[name])
        setattr(accelerator.memory, name, answers[name])
    for name, answer in (
        ("synchronize", _synchronise),
        ("get_memory_info", answers["mem_get_info"]),
        ("reset_peak_memory_stats", answers["reset_peak_memory_stats"]),
        ("empty_cache", answers["empty_cache"]),
    ):
        setattr(accelerator, name, answer)
    _replace_collectives()


def _synchronise(device: Any = None) -> None:
    LOG.note("synchronisation", "synchronize")
    torch._C._accelerator_synchronizeDevice(torch.cuda.current_device())  # noqa: SLF001


def _replace_collectives() -> None:
    begin, group = dist.init_process_group, dist.new_group

    def init_process_group(backend: str | None = None, *args: Any, device_id: Any = None, **kwargs: Any) -> None:
        of_device = backend is None or "nccl" in backend
        begin("cpu:gloo,cuda:gloo" if of_device else backend, *args, **kwargs)
        if of_device:
            _REFUSES_THE_HOST.add(dist.group.WORLD)

    def new_group(*args: Any, backend: str | None = None, **kwargs: Any) -> Any:
        made = group(*args, backend="gloo" if backend in (None, "nccl") else backend, **kwargs)
        if backend != "gloo" and dist.group.WORLD in _REFUSES_THE_HOST:
            _REFUSES_THE_HOST.add(made)
        return made

    dist.init_process_group, dist.new_group = init_process_group, new_group
    for name in (
        "all_reduce",
        "reduce",
        "broadcast",
        "all_gather",
        "all_gather_into_tensor",
        "gather",
        "scatter",
        "reduce_scatter",
        "reduce_scatter_tensor",
        "all_to_all",
        "all_to_all_single",
        "send",
        "recv",
        "isend",
        "irecv",
    ):
        setattr(dist, name, _checked(getattr(dist, name)))


_REFUSES_THE_HOST: set[Any] = set()
"""Groups that would talk by NCCL, which has nothing to send of the host's memory."""


def _checked(collective: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(collective)
    def check(*args: Any, group: Any = None, **kwargs: Any) -> Any:
        found = dist.group.WORLD if group is None else group
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if found in _REFUSES_THE_HOST and any(tensor.device.type == "cpu" for tensor in tensors):
            raise DeviceError(f"{collective.__name__}: NCCL sends nothing of the processor's memory")
        return collective(*args, group=group, **kwargs)

    return check
