"""Work on a range of items in PyTorch's number of threads, for loops that release the interpreter's lock."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

_LEAST_PIXELS = 2**15
"""Least pixels of a thread's part: some 30 µs of work, which waking the thread costs."""


def in_threads(items: int, pixels: int, work: Callable[[int, int], None]) -> None:
    """Do work on a range of items in parts, one per thread.

    Args:
        items: length of the range.
        pixels: how many pixels all items have together.
        work: takes the first item of a part and the one behind its last.
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
