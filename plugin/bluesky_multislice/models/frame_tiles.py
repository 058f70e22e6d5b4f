"""Tiles of full-field frames: each rank of an angle computes some rows, with a halo that is cut off."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.fft import next_fast_len

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import ScanGeometry
from bluesky_multislice.parallel import Rows


@dataclass(frozen=True)
class FrameTiles:
    """The rows of a frame that each rank of an angle computes, all of the same view.

    Attributes:
        ends: (slab + 1,) first row of each tile, and the number of rows of the frame.
        halo: pixels of the window added on both sides of a tile, so that its surroundings do not disturb it.
    """

    ends: tuple[int, ...]
    halo: int

    @property
    def rows(self) -> list[Rows]:
        """The rows of the frame that each rank computes."""
        return list(pairwise(self.ends))

    def in_window(self, window: int, *, margin: int, oversampling: int) -> list[Rows]:
        """Return the window's rows of each rank's waves, halos included.

        The rows may extend beyond the window, into vacuum. Their number is increased to one for which the FFT is fast.
        If it reaches the number of rows of the window, the rank computes the whole window.

        Args:
            window: number of rows of the window.
            margin: rows of the window on either side of the frame.
            oversampling: rows of the window per row of the frame.
        """
        rows = []
        for first, last in self.rows:
            start = margin + first * oversampling - self.halo
            length = int(next_fast_len((last - first) * oversampling + 2 * self.halo) or window)
            rows.append((start, start + length) if length < window else (0, window))
        return rows

    def coarser(self, factor: int) -> "FrameTiles":
        """Return the tiles of frames binned by a factor, which must divide the rows of every tile."""
        return replace(self, ends=tuple(end // factor for end in self.ends), halo=-(-self.halo // factor))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FrameTiles":
        """Rebuild tiles from ``dataclasses.asdict``, also after a conversion to JSON."""
        return cls(tuple(values["ends"]), values["halo"])


def even_tiles(rows: int, slabs: int, halo: int, multiple_of: int = 1) -> FrameTiles | None:
    """Return tiles of equal size, the last one possibly smaller; None if a tile would have no row.

    Args:
        rows: number of rows of the frame.
        slabs: number of tiles.
        halo: pixels of the window added on both sides of each tile.
        multiple_of: the number of rows of a tile is a multiple of this number.
    """
    step = -(-rows // (slabs * multiple_of)) * multiple_of
    ends = tuple(min(tile * step, rows) for tile in range(slabs + 1))
    return FrameTiles(ends, halo) if ends[-2] < ends[-1] else None


def tiles_are_valid(geometry: ScanGeometry) -> bool:
    """Return whether frames can be tiled: holograms of one magnification, whose rows are rows of the window."""
    return geometry.detector.regime == "near_field" and bool(np.ptp(geometry.magnification) == 0)


def check_tiles(geometry: ScanGeometry) -> None:
    """Check that the frames of a scan can be tiled.

    Raises:
        ScanError: diffraction patterns, or holograms of several magnifications.
    """
    if not tiles_are_valid(geometry):
        raise ScanError(
            "Tiles of frames need holograms of one magnification, whose rows depend only on the object nearby.",
            got=f"the {geometry.detector.regime.replace('_', ' ')}, magnifications {geometry.magnification.min():g} to "
            f"{geometry.magnification.max():g}.",
            remedy="compute whole frames.",
        )
