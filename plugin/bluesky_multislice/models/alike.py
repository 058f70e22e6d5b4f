"""Views whose waves are the same up to the sample's exit, because only their distance to the detector differs."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.optics import on_device


@dataclass(frozen=True, eq=False)
class SharedWaves:
    """Which views of a batch share a wave.

    Attributes:
        first: (wave,) the first view of each wave.
        wave_of: (view,) which wave a view has.
    """

    first: NDArray[np.intp]
    wave_of: NDArray[np.intp]

    def distinct(self, values: Tensor) -> Tensor:
        """Return one row of values (view, …) per wave, that of its first view; a single row is returned as it is."""
        return values if len(values) == 1 else values[on_device(self.first, values.device)]

    def expand_to_views(self, wave: Tensor) -> Tensor:
        """Return the waves of all views (mode, view, y, x) of distinct ones (mode, wave, y, x).

        If all waves have the same number of views, gradients are summed in one order and repeat bit by bit. Otherwise
        they may differ in the last bits on a GPU.
        """
        counts = np.bincount(self.wave_of)
        if np.ptp(counts) > 0:
            return wave.index_select(1, on_device(self.wave_of, wave.device))
        repeated = wave[:, :, None].expand(-1, -1, int(counts[0]), -1, -1).flatten(1, 2)
        place = np.argsort(np.argsort(self.wave_of, kind="stable"))
        if (place == np.arange(len(place))).all():
            return repeated
        return torch.index_select(repeated, 1, on_device(place, wave.device))


def shared_waves(places: NDArray[np.float64]) -> SharedWaves | None:
    """Return which views have equal places (view, 2), None where all differ."""
    _, first, wave_of = np.unique(places, axis=0, return_index=True, return_inverse=True)
    return SharedWaves(first, wave_of) if len(first) < len(places) else None
