"""Views with the same exit wave, because only their distance to the detector differs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import on_device


@dataclass(frozen=True, eq=False)
class SharedWaves:
    """The distinct exit waves of a batch of views.

    Attributes:
        first: (wave,) index of the first view with each wave.
        wave_of: (view,) index of each view's wave.
    """

    first: NDArray[np.intp]
    wave_of: NDArray[np.intp]

    def distinct(self, values: Tensor) -> Tensor:
        """Return values (wave, …), each of the wave's first view, from (view, …); (1, …) is returned unchanged."""
        return values if len(values) == 1 else values[on_device(self.first, values.device)]

    def expand_to_views(self, wave: Tensor) -> Tensor:
        """Return the waves of all views (mode, view, y, x) from the distinct waves (mode, wave, y, x).

        If all waves have the same number of views, gradients are summed in a fixed order and are reproducible bit by
        bit. Otherwise their last bits may vary on a GPU.
        """
        counts = np.bincount(self.wave_of)
        if np.ptp(counts) > 0:
            return wave.index_select(1, on_device(self.wave_of, wave.device))
        repeated = wave[:, :, None].expand(-1, -1, int(counts[0]), -1, -1).flatten(1, 2)
        order = np.argsort(np.argsort(self.wave_of, kind="stable"))
        if (order == np.arange(len(order))).all():
            return repeated
        return torch.index_select(repeated, 1, on_device(order, wave.device))


def shared_waves(positions: NDArray[np.float64]) -> SharedWaves | None:
    """Group views by equal positions (view, 2); None if all positions differ."""
    _, first, wave_of = np.unique(positions, axis=0, return_index=True, return_inverse=True)
    return SharedWaves(first, wave_of) if len(first) < len(positions) else None
