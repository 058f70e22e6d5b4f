"""A scan as the reconstruction sees it: geometry, frames and where each value came from."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement.frames import Frames
from bluesky_multislice.measurement.geometry import ScanGeometry


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that was measured.

    Attributes:
        geometry: one row a view.
        frames: the frames of the same views.
        probe: (mode, y, x) complex64 initial guess at z = 0, in the square root of the frames' units; None is unknown.
        sources: field name → where its value came from, for the provenance.
        warnings: what a person should know about these values; they stay in the provenance.
    """

    geometry: ScanGeometry
    frames: Frames
    probe: NDArray[np.complex64] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse frames that do not belong to the geometry."""
        if self.frames.views != self.geometry.views:
            raise ScanError(
                "A scan needs as many frames as views.",
                got=f"{self.frames.views} frames for {self.geometry.views} views.",
                remedy="check whether the detector stopped early, or the motors' readings were lost.",
            )
        if self.frames.shape != self.geometry.detector.shape:
            raise ScanError(
                "Frames must have the detector's shape.",
                got=f"frames of {self.frames.shape} for a detector of {self.geometry.detector.shape}.",
                remedy="check the orientation and the region of interest.",
            )
