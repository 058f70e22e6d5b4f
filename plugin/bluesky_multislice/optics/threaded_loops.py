"""Parallel loops over a range of items with PyTorch's number of threads, for work that releases the GIL."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_LEAST_PIXELS = 2**15
"""Smallest number of pixels per thread: about 30 µs of work, as long as waking a thread takes."""


def in_threads(items: int, pixels: int, work: Callable[[int, int], None]) -> None:
    """Process a range of items in parts, one part per thread.

    Args:
        items: length of the range.
        pixels: total number of pixels of all items.
        work: called with the first item of a part and the end of the part (exclusive).
    """
    parts = max(1, min(torch.get_num_threads(), items, pixels // _LEAST_PIXELS))
    ends = [items * part // parts for part in range(parts + 1)]
    others = [_pool(parts - 1).submit(work, *ends[part : part + 2]) for part in range(1, parts)]
    work(ends[0], ends[1])
    for other in others:
        other.result()


@functools.lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="pixels")
