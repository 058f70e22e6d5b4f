"""The views that a rank works on: its frames in memory, and their order in each epoch."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.frames import Saturated
from bluesky_multislice.scan import Scan


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Frames that a rank holds.

    Attributes:
        views: (n,) which views of the scan.
        angles: (n,) rotation angle of each.
        amplitude: (n, y, x) square root of the frames over their scale; NaN where a pixel is saturated in a frame.
        mask: (y, x) 1 where a pixel is good, else 0.
    """

    views: NDArray[np.intp]
    angles: NDArray[np.float64]
    amplitude: Tensor
    mask: Tensor

    def batches(self, size: int, shuffle: np.random.Generator | None) -> list[NDArray[np.intp]]:
        """Return batches of indices into ``views``; a batch mixes angles only where every angle has few views.

        Args:
            size: most views a batch.
            shuffle: orders views and batches at random; None keeps them in order.
        """
        index = np.arange(len(self.views))
        if shuffle is not None:
            index = shuffle.permutation(index)
        groups = [index[self.angles[index] == angle] for angle in np.unique(self.angles)]
        if groups and max(len(group) for group in groups) < size:
            groups = [index]
        batches = [batch for group in groups for batch in np.array_split(group, math.ceil(len(group) / size))]
        return batches if shuffle is None else [batches[at] for at in shuffle.permutation(len(batches))]


def split_views(views: int, held_back_every: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return which views are fitted and which are held back: every n-th; none for 0 or for no more than n views."""
    everything = np.arange(views)
    if held_back_every == 0 or views <= held_back_every:
        return everything, everything[:0]
    held = everything % held_back_every == 0
    return everything[~held], everything[held]


def load_views(
    scan: Scan, views: NDArray[np.intp], *, scale: float, device: torch.device, saturated: Saturated = "refuse"
) -> ViewSet:
    """Read frames into memory as amplitudes.

    Args:
        scan: what was measured.
        views: which to read.
        scale: intensity that becomes one.
        device: where they are kept.
        saturated: what a saturated pixel means.

    Raises:
        FramesError: a frame cannot be used.
    """
    amplitude = torch.from_numpy(scan.frames.read(views, saturated=saturated)).div_(scale).sqrt_()
    mask = torch.as_tensor(scan.frames.mask, dtype=torch.float32, device=device)
    return ViewSet(views, scan.geometry.angle_rad[views], amplitude.to(device), mask)
