"""The views that a rank works on: its frames in memory, and their order in each epoch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.frames import Frames


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Frames that a rank holds.

    Attributes:
        views: (n,) which views of the scan.
        amplitude: (n, y, x) square root of the frames over ``scale``.
    """

    views: NDArray[np.intp]
    amplitude: Tensor

    def batches(self, angles: NDArray, size: int, order: np.random.Generator | None) -> list[NDArray[np.intp]]:
        """Return batches of indices into ``views``; a batch mixes angles only where an angle has few views.

        Args:
            angles: (view,) of the whole scan.
            size: views a batch.
            order: shuffles views and batches; None keeps them in order.
        """
        index = np.arange(len(self.views))
        if order is not None:
            index = order.permutation(index)
        groups = [index[angles[self.views[index]] == angle] for angle in dict.fromkeys(angles[self.views[index]])]
        if groups and max(len(group) for group in groups) < size:
            groups = [np.concatenate(groups)]
        batches = [batch for group in groups for batch in np.array_split(group, math.ceil(len(group) / size))]
        return batches if order is None else [batches[at] for at in order.permutation(len(batches))]


def split_views(views: int, held_back_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which views are fitted and which are held back: every n-th, none for 0 or where none would be left."""
    everything = np.arange(views)
    held = everything % held_back_every == 0 if held_back_every and views > held_back_every else everything < 0
    return everything[~held], everything[held]


def load_views(frames: Frames, views: NDArray[np.intp], *, scale: float, device: torch.device) -> ViewSet:
    """Read frames into memory as amplitudes.

    Args:
        frames: the scan's frames.
        views: which to read.
        scale: intensity that becomes one.
        device: where they are kept.
    """
    amplitude = torch.from_numpy(frames.read(views)).div_(scale).sqrt_()
    return ViewSet(views, amplitude.to(device))


def endless_empty(batches: list[NDArray[np.intp]], steps: int) -> Iterator[NDArray[np.intp] | None]:
    """Yield the batches, then None until ``steps`` are reached: every rank takes part in every step's exchange."""
    yield from batches
    for _ in range(steps - len(batches)):
        yield None
