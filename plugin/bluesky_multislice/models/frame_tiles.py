"""Full-field frames cut into rows over the ranks of an angle: each computes its own, with a halo that is cut off."""

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
        ends: (slab + 1,) rows of the frame at which tiles begin and end.
        halo: pixels of the window before and behind a tile that keep what lies farther away from disturbing it.
    """

    ends: tuple[int, ...]
    halo: int

    @property
    def rows(self) -> list[Rows]:
        """The rows of the frame that each rank computes."""
        return list(pairwise(self.ends))

    def in_window(self, window: int, *, margin: int, oversampling: int) -> list[Rows]:
        """Return the rows of the window that each rank's waves have, halos included.

        They may reach over the window, where there is vacuum. Their number is one that the FFT is fast for; where it
        would be that of the window at least they are all of its rows.

        Args:
            window: rows of the window.
            margin: rows that it has around the frame on either side.
            oversampling: its rows in one of the frame's.
        """
        found = []
        for first, last in self.rows:
            start = margin + first * oversampling - self.halo
            length = int(next_fast_len((last - first) * oversampling + 2 * self.halo) or window)
            found.append((start, start + length) if length < window else (0, window))
        return found

    def coarser(self, factor: int) -> "FrameTiles":
        """Return the tiles of frames of pixels that are larger by a factor, of which every tile is a multiple."""
        return replace(self, ends=tuple(end // factor for end in self.ends), halo=-(-self.halo // factor))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FrameTiles":
        """Rebuild tiles from ``dataclasses.asdict``, with or without JSON in between."""
        return cls(tuple(values["ends"]), values["halo"])


def even_tiles(rows: int, slabs: int, halo: int, multiple_of: int = 1) -> FrameTiles | None:
    """Return tiles of as many rows each, the last one of fewer; None where one would have no row.

    Args:
        rows: of the frame.
        slabs: number of tiles.
        halo: pixels of the window around each.
        multiple_of: what the rows of a tile are a multiple of.
    """
    step = -(-rows // (slabs * multiple_of)) * multiple_of
    ends = tuple(min(tile * step, rows) for tile in range(slabs + 1))
    return FrameTiles(ends, halo) if ends[-2] < ends[-1] else None


def tiles_are_valid(geometry: ScanGeometry) -> bool:
    """Return whether tiles serve the frames of a scan: holograms of one magnification, whose rows are the window's."""
    return geometry.detector.regime == "near_field" and bool(np.ptp(geometry.magnification) == 0)


def check_tiles(geometry: ScanGeometry) -> None:
    """Refuse frames that tiles do not serve.

    Raises:
        ScanError: diffraction patterns, or holograms of several magnifications.
    """
    if not tiles_are_valid(geometry):
        raise ScanError(
            "Tiles of a frame are computed alone where they depend on the object behind and around them only: in "
            "holograms of one magnification.",
            got=f"the {geometry.detector.regime.replace('_', ' ')}, magnifications {geometry.magnification.min():g} to "
            f"{geometry.magnification.max():g}.",
            remedy="compute whole frames.",
        )
