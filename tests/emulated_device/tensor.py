"""Tensors of the device: they hold one of the processor, and run their operators on it under a GPU's rules."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._mode_utils import no_dispatch

from emulated_device import rules
from emulated_device.log import LOG, DeviceError
from emulated_device.memory import MEMORY
from emulated_device.rules import Operator, check_collective, check_mixture, operator
from emulated_device.streams import STREAMS, stream_of_thread
from emulated_device.traffic import moved_bytes, size


class EmulatedTensor(torch.Tensor):
    """A tensor that says ``cuda``.

    Attributes:
        held: the tensor of the processor that has its numbers.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "EmulatedTensor":
        """Return a tensor of the device."""
        made = torch.Tensor._make_wrapper_subclass(  # noqa: SLF001
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        """Return the numbers, for which the host waits."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refuse, as a GPU's tensor does."""
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self.numpy()

    def __repr__(self, **kwargs: Any) -> str:
        return f"EmulatedTensor({self.held!r}, device='{self.device}')"

    def __deepcopy__(self, memo: dict) -> "EmulatedTensor":
        return EmulatedTensor(self.held.clone(), self.device).requires_grad_(self.requires_grad)

    __torch_function__ = torch._C._disabled_torch_function_impl  # noqa: SLF001

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run an operator that has a tensor of the device among its arguments."""
        found, kwargs = operator(func), kwargs or {}
        if found.library == "aten" and found.name in _SPECIAL:
            return _SPECIAL[found.name](*args, **kwargs)
        given = _tensors((args, *kwargs.values()), [])
        own = [tensor for tensor in given if isinstance(tensor, EmulatedTensor)]
        if len({tensor.device for tensor in own}) > 1:
            raise DeviceError(f"{func}: tensors of several devices")
        if found.library == "c10d":
            return _collective(func, found, args, kwargs, given)
        return _kernel(func, found, args, kwargs, given, own[0].device)


def _held(value: Any) -> Any:
    """Return arguments with what the tensors of the device hold in their place."""
    if isinstance(value, EmulatedTensor):
        return value.held
    if isinstance(value, (list, tuple)):
        return type(value)([_held(each) for each in value])
    return value


def _tensors(values: Any, found: list[Tensor]) -> list[Tensor]:
    """Add the tensors within arguments to those found."""
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)):
            _tensors(value, found)
    return found


def _wrapped(value: Any, device: torch.device) -> Any:
    """Return results as tensors of the device."""
    if isinstance(value, Tensor):
        MEMORY.holds(value)
        return EmulatedTensor(value, device)
    if isinstance(value, (list, tuple)):
        return type(value)([_wrapped(each, device) for each in value])
    return value


def _kernel(func: Any, found: Operator, args: tuple, kwargs: dict, given: list[Tensor], device: torch.device) -> Any:
    host = [tensor for tensor in given if not isinstance(tensor, EmulatedTensor)]
    if host:
        check_mixture(found, args, host)
    if kwargs.get("pin_memory"):
        raise DeviceError(f"{func}: only memory of the host can be pinned")
    to_host = kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cpu"
    own = {name: _held(value) for name, value in kwargs.items() if name not in ("device", "pin_memory")}
    STREAMS.before_a_kernel()
    waits = rules.what_waits(found, args)
    if waits:
        host_waits(waits)
    out = func(*_held(args), **own)
    if to_host:
        return out
    if found.launches:
        LOG.ran(found.name, moved_bytes(found.name, given, _tensors((out,), [])))
    if not found.writes:
        return _wrapped(out, device)
    if found.reshapes:
        with no_dispatch():
            return func(*args, **kwargs)
    written = found.written(args, kwargs)
    for tensor in written:
        if isinstance(tensor, EmulatedTensor) and tensor.held.shape != tensor.shape:
            raise DeviceError(f"{func}: an output {tuple(tensor.shape)} became {tuple(tensor.held.shape)}")
    return (written[0] if found.returns == 1 else tuple(written)) if found.returns else None


def host_waits(what: str) -> None:
    """Note that the host waits for all that the thread's stream was given."""
    LOG.note("synchronisation", what)
    STREAMS.stream_done(stream_of_thread())


def _collective(func: Any, found: Operator, args: tuple, kwargs: dict, given: list[Tensor]) -> Any:
    check_collective(found, given)
    STREAMS.before_a_kernel()
    LOG.note("collective", found.name)
    out = func(*_held(args), **kwargs)
    own = {id(tensor.held): tensor for tensor in given if isinstance(tensor, EmulatedTensor)}
    return _with(out, own)


def _with(value: Any, own: dict[int, EmulatedTensor]) -> Any:
    """Return results with the tensors of the device in the place of what they hold."""
    if isinstance(value, Tensor):
        return own[id(value)]
    if isinstance(value, (list, tuple)):
        return type(value)([_with(each, own) for each in value])
    return value


def _copy(into: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    STREAMS.before_a_kernel()
    to_device, from_device = isinstance(into, EmulatedTensor), isinstance(source, EmulatedTensor)
    if to_device and from_device:
        into.held.copy_(source.held)
        LOG.ran("copy_", size(source) + size(into))
    elif to_device and source.numel():
        _upload(into.held, source, non_blocking)
    elif from_device and into.numel():
        _download(into, source.held, non_blocking)
    return into


def _upload(into: Tensor, source: Tensor, non_blocking: bool) -> None:
    if not source.is_pinned():
        LOG.note("upload", f"from pageable memory, {tuple(source.shape)}")
    elif non_blocking and _lies_alike(into, source):
        LOG.note("pinned copy", "to the device")
        STREAMS.upload(into, source)
        return
    else:
        host_waits("copy from pinned memory, without non_blocking or with a conversion")
    into.copy_(source)


def _download(into: Tensor, source: Tensor, non_blocking: bool) -> None:
    if into.is_pinned() and non_blocking and _lies_alike(into, source):
        LOG.note("pinned copy", "to the host")
        STREAMS.download(into, source)
        return
    host_waits("copy to the host")
    into.copy_(source)


def _lies_alike(one: Tensor, other: Tensor) -> bool:
    """Return whether one memory copy does: same type and layout, without gaps."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    alike = one.stride() == other.stride() and torch.ops.aten.is_non_overlapping_and_dense(one)
    return alike or (one.is_contiguous() and other.is_contiguous())


def _to_copy(source: EmulatedTensor, **options: Any) -> Tensor:
    device = options.pop("device", None)
    non_blocking = options.pop("non_blocking", False)
    pinned = options.pop("pin_memory", None)
    STREAMS.before_a_kernel()
    target = source.device if device is None else torch.device(device)
    if target.type != "cpu":
        if pinned:
            raise DeviceError("only memory of the host can be pinned")
        out = torch.ops.aten._to_copy.default(source.held, **options)  # noqa: SLF001
        LOG.ran("_to_copy", size(source) + size(out))
        return _wrapped(out, target if target.index is not None else source.device)
    values = torch.ops.aten._to_copy.default(source.held, **options)  # noqa: SLF001
    if values.dtype != source.dtype:
        LOG.ran("_to_copy", size(source) + size(values))
    if not non_blocking or not values.numel():
        host_waits("copy to the host")
        return values
    into = torch.empty_strided(values.size(), values.stride(), dtype=values.dtype, pin_memory=True)
    _download(into, values, non_blocking)
    return into


def _scalar(source: EmulatedTensor) -> Any:
    STREAMS.before_a_kernel()
    host_waits("a number is read")
    return torch.ops.aten._local_scalar_dense.default(source.held)  # noqa: SLF001


def _conj(source: EmulatedTensor) -> EmulatedTensor:
    """Return the conjugate, counted here: a GPU writes it out before nearly every operator that reads it."""
    STREAMS.before_a_kernel()
    LOG.ran("conj_physical", 2 * size(source))
    return _wrapped(source.held.conj().resolve_conj(), source.device)


def _pin(source: EmulatedTensor, **options: Any) -> Tensor:
    raise DeviceError(f"cannot pin {source.device.type} memory, only dense CPU tensors can be pinned")


_SPECIAL: dict[str, Callable[..., Any]] = {
    "copy_": _copy,
    "_to_copy": _to_copy,
    "_local_scalar_dense": _scalar,
    "_conj": _conj,
    "_pin_memory": _pin,
    "record_stream": lambda tensor, stream: None,
}


def _empty(size: Any, *, dtype: Any = None, device: Any = None, memory_format: Any = None, **others: Any) -> Tensor:
    return _wrapped(torch.empty(size, dtype=dtype, memory_format=memory_format or torch.contiguous_format), _at(device))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **others: Any) -> Tensor:
    return _wrapped(torch.empty_strided(size, stride, dtype=dtype), _at(device))


def _at(device: torch.device) -> torch.device:
    return torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)


def _made_by(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of numbers that makes its tensor on the device."""

    def made(*numbers: Any, device: Any, dtype: Any = None, **others: Any) -> Tensor:
        out = function(*numbers, dtype=dtype)
        LOG.ran(function.__name__, size(out))
        return _wrapped(out, _at(device))

    return made


def register() -> None:
    """Make every function of PyTorch that is asked for a tensor on cuda return one of these."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("empty.memory_format", _empty, "CUDA")
    library.impl("empty_strided", _empty_strided, "CUDA")
    # Others are made empty and filled, these grow while they are filled, which a subclass does not.
    for overload in ("arange", "arange.start", "arange.start_step"):
        library.impl(overload, _made_by(torch.arange), "CUDA")
    for overload in ("eye", "eye.m"):
        library.impl(overload, _made_by(torch.eye), "CUDA")
    library.impl("fft_fftfreq", _made_by(torch.fft.fftfreq), "CUDA")
    library.impl("fft_rfftfreq", _made_by(torch.fft.rfftfreq), "CUDA")
    # Where tensors are made from Python's numbers, the subclass's own dispatch is off.
    library.impl("copy_", _copy, "CUDA")
    _KEPT.append(library)


_KEPT: list[object] = []
"""The registrations end with this object."""
