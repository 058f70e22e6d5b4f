"""A former result, from which another reconstruction starts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.measurement.geometry import ScanGeometry, VolumeGrid

_SAME_PIXELS = 0.05
"""Largest difference of positions and, at the volume's edge, of angles of the same views, in pixels of the volume."""

_SAME_DISTANCE = 1e-4
"""Largest relative difference of the distances of the same views."""


class VolumeReader(Protocol):
    """Reads the volumes of a former result on demand, because each rank needs only its rows."""

    def planes(self, name: Literal["delta", "beta"], rows: slice) -> Iterator[NDArray[np.float32]]:
        """Yield these rows along y of every plane (y, x), in order along z."""
        ...


@dataclass(frozen=True, eq=False)
class FormerResult:
    """A former result.

    Attributes:
        name: path of its file, or of its node in the catalogue.
        digest: digest of its content.
        origin: where it comes from, for the provenance.
        technique: name of the technique; empty if the result does not tell it.
        regime: ``far_field`` or ``near_field``; empty if the result does not tell it.
        wavelength_m: wavelength for which δ and β hold.
        grid: grid of the volume, with refined depth and distance.
        volumes: reads δ and β.
        probe: complex (mode, y, x) at z = 0, on the lateral pixels of the grid, in the square root of the frames' unit.
        oversampling: pixels of the probe per detector pixel and axis.
        frame_intensity: mean intensity of the fitted frames per detector pixel; None if the result does not tell it.
        joint_illumination: whether the probe was fitted to flats and frames, instead of dividing the frames by flats.
        position_m: (view, 2) positions (y, x) after alignment and refinement.
        views: (view, 4) angle, distance and position (y, x) of the scan in rad and m, before alignment and refinement;
            None if the result does not tell them.
        refined: refined quantities by name, as in ``Solution.differences``.
        frames: the recipe's table ``frames``, with the part of the detector; empty if the result does not tell it.
    """

    name: str
    digest: str
    technique: str
    regime: str
    wavelength_m: float
    grid: VolumeGrid
    volumes: VolumeReader
    probe: NDArray[np.complex64]
    position_m: NDArray[np.float64]
    oversampling: int = 1
    frame_intensity: float | None = None
    joint_illumination: bool = False
    views: NDArray[np.float64] | None = None
    refined: Mapping[str, NDArray] = field(default_factory=dict)
    frames: Mapping[str, Any] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    def moved(self, geometry: ScanGeometry) -> ScanGeometry:
        """Return a geometry of the same views with the result's positions, which contain its rotation axis."""
        return replace(geometry, position_m=self.position_m)

    def has_views_of(self, geometry: ScanGeometry) -> bool:
        """Return whether the result was made from the same views: equal angles, distances and positions, in order."""
        if self.views is None or self.views.shape != (geometry.views, 4):
            return False
        pitch_m = min(self.grid.voxel_size_m[1:])
        reach_m = max(n * size for n, size in zip(self.grid.shape, self.grid.voxel_size_m, strict=True)) / 2
        angle_rad, distance_m, position_m = self.views[:, 0], self.views[:, 1], self.views[:, 2:]
        differences_m = (reach_m * (angle_rad - geometry.angle_rad), position_m - geometry.position_m)
        return bool(
            all(np.abs(each).max() <= _SAME_PIXELS * pitch_m for each in differences_m)
            and (np.abs(distance_m - geometry.distance_m) <= _SAME_DISTANCE * np.abs(distance_m)).all()
        )
