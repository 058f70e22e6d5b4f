"""Copies between pinned memory and the device, in the order that streams and events give them.

A copy to the device reaches its destination only when what reads it is ordered behind it; until then NaN stands there.
A copy to the host reaches it only when the host has waited; until then NaN stands there, too. Memory of the host that
is written before its copy is done is an error in the log. Kernels themselves run at once, whatever their stream: one
that reads what another stream's kernel writes is not checked.
"""

import ctypes
import threading
from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emulated_device.library import loaded
from emulated_device.log import LOG

_DEFAULT = 0


@dataclass(eq=False)
class _Copy:
    """A copy whose end the host does not know of.

    Attributes:
        into: where to.
        source: memory of the host that must not change meanwhile; None of a copy to the host.
        values: what is copied.
        done_by: how far each stream has to be for the copy to be done.
        delivered: whether the values stand where they belong.
    """

    into: Tensor
    source: Tensor | None
    values: Tensor
    done_by: dict[int, int] = field(default_factory=dict)
    delivered: bool = False

    def deliver(self) -> None:
        if not self.delivered:
            self.into.copy_(self.values)
            self.delivered = True

    def end(self) -> None:
        self.deliver()
        if self.source is not None and not torch.equal(self.source.nan_to_num(), self.values.nan_to_num()):
            LOG.note("error", "pinned memory was written before its copy was done")


class Streams:
    """Copies in flight, and how far streams and events are."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._copies: list[_Copy] = []
        self._place: Counter[int] = Counter()
        self._events: dict[int, tuple[int, int]] = {}

    def upload(self, into: Tensor, source: Tensor) -> None:
        """Copy pinned memory of the host to the device beside the host."""
        self._begin(_Copy(into, source, source.clone()))

    def download(self, into: Tensor, source: Tensor) -> None:
        """Copy the device's memory to pinned memory of the host beside the host."""
        self._begin(_Copy(into, None, source.clone()))

    def _begin(self, copy: _Copy) -> None:
        if copy.into.dtype.is_floating_point or copy.into.dtype.is_complex:
            copy.into.fill_(torch.nan)
        with self._lock:
            stream = stream_of_thread()
            self._place[stream] += 1
            copy.done_by[stream] = self._place[stream]
            self._copies.append(copy)

    def before_a_kernel(self) -> None:
        """Let what is copied to the device before a kernel on the same stream arrive."""
        if not self._copies:
            return
        with self._lock:
            stream = stream_of_thread()
            for copy in self._copies:
                if copy.source is not None and stream in copy.done_by:
                    copy.deliver()

    def recorded(self, event: int, stream: int) -> None:
        """Let an event stand for all that its stream has been given."""
        with self._lock:
            self._events[event] = stream, self._place[stream]

    def waited(self, event: int, stream: int) -> None:
        """Order what a stream is given from now on behind an event."""
        with self._lock:
            self._place[stream] += 1
            for copy in self._done_at(event):
                if copy.source is not None:
                    copy.deliver()
                copy.done_by.setdefault(stream, self._place[stream])

    def event_done(self, event: int) -> None:
        """End the copies before an event: the host has waited for it."""
        with self._lock:
            self._end(self._done_at(event))

    def stream_done(self, stream: int) -> None:
        """End the copies of a stream: the host has waited for it."""
        with self._lock:
            self._end([copy for copy in self._copies if stream in copy.done_by])

    def device_done(self) -> None:
        """End all copies: the host has waited for the device."""
        with self._lock:
            self._end(list(self._copies))

    def _done_at(self, event: int) -> list[_Copy]:
        stream, place = self._events.get(event, (_DEFAULT, 0))
        return [copy for copy in self._copies if copy.done_by.get(stream, place + 1) <= place]

    def _end(self, copies: list[_Copy]) -> None:
        for copy in copies:
            self._copies.remove(copy)
            copy.end()


STREAMS = Streams()


def stream_of_thread() -> int:
    """Return the stream that this thread is on."""
    return loaded().stream_of_thread()


class _Callbacks(ctypes.Structure):
    """``Callbacks`` of device.cpp."""

    _fields_ = [
        ("recorded", ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)),
        ("waited", ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)),
        ("event_done", ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)),
        ("stream_done", ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)),
        ("device_done", ctypes.CFUNCTYPE(None)),
    ]


def _event_done(event: int, waits: int) -> None:
    if waits:
        LOG.note("synchronisation", "an event is waited for")
    STREAMS.event_done(event)


def _stream_done(stream: int, waits: int) -> None:
    if waits:
        LOG.note("synchronisation", "a stream is waited for")
    STREAMS.stream_done(stream)


def listen() -> None:
    """Hear of every event and of every wait of this process."""
    heard = (STREAMS.recorded, STREAMS.waited, _event_done, _stream_done, STREAMS.device_done)
    python = _Callbacks(*(kind(function) for (_, kind), function in zip(_Callbacks._fields_, heard, strict=True)))
    _KEPT.append(python)
    call_back = loaded().call_back
    call_back.argtypes = [_Callbacks]
    call_back(python)


_KEPT: list[object] = []
"""What C++ calls has to live as long as the process."""
