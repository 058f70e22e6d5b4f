"""A scan: geometry, frames and the source of each value."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement.former_result import FormerResult
from bluesky_multislice.measurement.frames import Frames
from bluesky_multislice.measurement.geometry import ScanGeometry


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that was measured.

    Attributes:
        geometry: one row per view.
        frames: the frames of the same views.
        probe: (mode, y, x) complex64 initial guess at z = 0, in the square root of the frames' units; None: unknown.
        sources: field name → source of its value, for the provenance.
        warnings: warnings about these values, for the user and the provenance.
        absent: names of fields that are not recorded and have a default value.
        former: former result that gives the initial guess; None: the initial guess is made from the frames.
    """

    geometry: ScanGeometry
    frames: Frames
    probe: NDArray[np.complex64] | None = None
    sources: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    absent: frozenset[str] = frozenset()
    former: FormerResult | None = None

    def __post_init__(self) -> None:
        """Check that the frames match the geometry."""
        if self.frames.views != self.geometry.views:
            raise ScanError(
                "A scan needs as many frames as views.",
                got=f"{self.frames.views} frames for {self.geometry.views} views.",
                remedy="check whether the detector stopped early or motor readings were lost.",
            )
        if self.frames.shape != self.geometry.detector.shape:
            raise ScanError(
                "Frames must have the detector's shape.",
                got=f"frames of {self.frames.shape} for a detector of {self.geometry.detector.shape}.",
                remedy="check the orientation and the region of interest.",
            )
