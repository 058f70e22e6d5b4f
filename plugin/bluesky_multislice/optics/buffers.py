"""Reuses freed buffers, because touching fresh pages costs as much as the FFT itself."""

import math
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Huge pages for tensors of 2 MiB and more, unless the environment forbids them. Arrays as large as a volume are
# allocated and freed at each step; huge pages make this faster and avoid heap fragmentation (docs/memory.md).
# PyTorch reads this variable once, at its first allocation.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

MOST_BYTES = 2**28
"""Largest total size of the blocks kept for reuse."""

_LARGEST_BLOCK_RATIO = 1.25
"""Largest size of a block over the tensor placed in it; a rank's number of views per batch varies slightly."""

_UNUSED_REQUESTS = 64
"""A block is freed after this many requests without use, about ten gradients of different sizes."""


class _Block:
    """A block of memory that holds at most one tensor, and the number of requests since its last use."""

    def __init__(self, size: int) -> None:
        # numpy requests huge pages for large arrays.
        self._bytes = np.empty(size, np.uint8)
        self._array = lambda: None
        self.unused = 0

    @property
    def size(self) -> int:
        return self._bytes.nbytes

    @property
    def is_free(self) -> bool:
        return self._array() is None

    def tensor(self, dtype: np.dtype, shape: Sequence[int]) -> Tensor:
        # The storage of the tensor and of its views keeps the array alive.
        array = self._bytes[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        self._array = weakref.ref(array)
        return torch.from_numpy(array)


_kept: list[_Block] = []
"""Ordered by last use, most recent last."""
_lock = threading.Lock()


def empty(shape: Sequence[int], like: Tensor) -> Tensor:
    """Return an uninitialised tensor of a shape, with the type and device of ``like``.

    On the CPU it reuses the memory of a freed tensor of equal or slightly larger size. Blocks that are unused for long
    are returned to the system, earlier if ``MOST_BYTES`` would be exceeded.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
    with _lock:
        return _block(math.prod(shape) * dtype.itemsize).tensor(dtype, shape)


def _block(size: int) -> _Block:
    for block in _kept:
        block.unused = block.unused + 1 if block.is_free else 0
    _kept[:] = [block for block in _kept if block.unused <= _UNUSED_REQUESTS]
    fitting = [block for block in _kept if block.is_free and size <= block.size <= _LARGEST_BLOCK_RATIO * size]
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
    """Return the total size of the kept blocks, in use or free."""
    return sum(block.size for block in _kept)
