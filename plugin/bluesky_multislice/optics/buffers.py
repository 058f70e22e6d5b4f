"""Memory that is used again, because touching fresh pages costs as much as a Fourier transform of them."""

import math
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# PyTorch asks for huge pages from 2 MiB on, unless the environment says no: arrays as large as a volume come and go at
# each step, which then takes less time and leaves no holes in the C library's heap, as measured (docs/memory.md).
# It looks once, when it first needs memory.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

MOST_BYTES = 2**28
"""Bytes that are kept for use again, at most."""

_LARGER = 1.25
"""Most of a block's size over that of a tensor that is put into it: a rank's views in a batch vary by a few."""

_UNUSED = 64
"""Requests after which memory that none of them used is given back: some ten gradients of different sizes."""


class _Block:
    """Memory, whether a tensor is in it, and for how many requests none was."""

    def __init__(self, size: int) -> None:
        # numpy asks the system for huge pages where there is much of it.
        self._bytes = np.empty(size, np.uint8)
        self._given = lambda: None
        self.unused = 0

    @property
    def size(self) -> int:
        return self._bytes.nbytes

    @property
    def is_free(self) -> bool:
        return self._given() is None

    def give(self, kind: np.dtype, shape: Sequence[int]) -> Tensor:
        # The tensor's storage, which its views share, holds the array.
        array = self._bytes[: math.prod(shape) * kind.itemsize].view(kind).reshape(shape)
        self._given = weakref.ref(array)
        return torch.from_numpy(array)


_kept: list[_Block] = []
"""The one used last stands last."""
_lock = threading.Lock()


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return a tensor of a shape, in the type and on the device of another, its values undefined.

    On the processor it takes, where there is one, the memory of an earlier tensor of as many bytes, or somewhat more,
    that nobody holds any more. What has not been used for long is given back to the system, and sooner where more would
    be kept than may be.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    kind = torch.empty(0, dtype=like.dtype).numpy().dtype
    with _lock:
        return _block(math.prod(shape) * kind.itemsize).give(kind, shape)


def _block(size: int) -> _Block:
    for block in _kept:
        block.unused = block.unused + 1 if block.is_free else 0
    _kept[:] = [block for block in _kept if block.unused <= _UNUSED]
    fitting = [block for block in _kept if block.is_free and size <= block.size <= _LARGER * size]
    if fitting:
        block = min(fitting, key=lambda each: each.size)
        _kept.remove(block)
        _kept.append(block)
        block.unused = 0
        return block
    for block in [block for block in _kept if block.is_free]:
        if bytes_kept() + size > MOST_BYTES:
            _kept.remove(block)
    new = _Block(size)
    if bytes_kept() + size <= MOST_BYTES:
        _kept.append(new)
    return new


def bytes_kept() -> int:
    """Return how much memory is kept, in use or for use again."""
    return sum(block.size for block in _kept)
