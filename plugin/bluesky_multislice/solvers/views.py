"""The views that a rank works on: its frames in memory, and their order in each epoch."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.frames import Saturated
from bluesky_multislice.scan import Scan

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, eq=False)
class ViewSet:
    """Frames that a rank holds.

    Attributes:
        views: (n,) which views of the scan.
        angles: (n,) rotation angle of each.
        amplitude: (n, y, x) square root of the frames over their scale; NaN where a pixel is saturated in a frame.
        mask: (y, x) 1 where a pixel is good, else 0.
        coarseness: pixels of the scan's frames on a side of one of these, as the pixels sample the object.
    """

    views: NDArray[np.intp]
    angles: NDArray[np.float64]
    amplitude: Tensor
    mask: Tensor
    coarseness: int = 1

    def batches(self, size: int, shuffle: np.random.Generator | None) -> list[NDArray[np.intp]]:
        """Return batches of indices into ``views``; a batch mixes angles only where every angle has few views.

        Angles follow each other by the golden ratio of their range, so that a few batches in a row, wherever they
        start, look from all sides (Köhler, IEEE Symp. Conf. Rec. Nucl. Sci. 6, 3961 (2004)).

        Args:
            size: most views a batch.
            shuffle: where to start, and the order of each angle's views; None keeps them in order.
        """
        index = np.arange(len(self.views))
        if shuffle is not None:
            index = shuffle.permutation(index)
        groups = [index[self.angles[index] == angle] for angle in np.unique(self.angles)]
        order = np.arange(len(groups))
        if shuffle is not None:
            order = np.argsort((_GOLDEN * order + shuffle.random()) % 1)
        mixed = max(map(len, groups), default=0) < size
        pieces = [np.array_split(group, len(group) if mixed else math.ceil(len(group) / size)) for group in groups]
        rounds = range(max(map(len, pieces), default=0))
        batches = [pieces[at][number] for number in rounds for at in order if number < len(pieces[at])]
        if mixed and batches:
            return np.array_split(np.concatenate(batches), math.ceil(len(index) / size))
        return batches

    def coarser(self, factor: int, *, far_field: bool) -> "ViewSet":
        """Return the frames as ``ScanGeometry.coarser`` samples them, of the same mean where they keep all their light.

        A pattern's middle concentrates its light; a block of hologram pixels has the mean of its good ones.
        """
        if factor == 1:
            return self
        rows, columns = (n // factor for n in self.mask.shape)
        if far_field:
            top, left = (n // 2 - m // 2 for n, m in zip(self.mask.shape, (rows, columns), strict=True))
            middle = (..., slice(top, top + rows), slice(left, left + columns))
            return replace(self, amplitude=self.amplitude[middle] / factor, mask=self.mask[middle], coarseness=factor)
        good = self.mask.expand_as(self.amplitude) * ~self.amplitude.isnan()
        light, seen = (
            part[..., : rows * factor, : columns * factor].unflatten(-1, (-1, factor)).unflatten(-3, (-1, factor))
            for part in ((self.amplitude.nan_to_num() * good).square(), good)
        )
        light, seen = light.sum((-3, -1)), seen.sum((-3, -1))
        amplitude = torch.where(seen > 0, light / seen, math.nan).sqrt()
        mask = (seen > 0).any(0).to(self.mask)
        return replace(self, amplitude=torch.where(mask > 0, amplitude, 0.0), mask=mask, coarseness=factor)


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
