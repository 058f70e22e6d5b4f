"""Conversion between CXI's basis vectors and the eight detector orientations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import Orientation

_BASIS: dict[Orientation, tuple[tuple[int, int], tuple[int, int]]] = {
    "as_is": ((1, 0), (0, 1)),
    "flip_y": ((-1, 0), (0, 1)),
    "flip_x": ((1, 0), (0, -1)),
    "flip_yx": ((-1, 0), (0, -1)),
    "transpose": ((0, 1), (1, 0)),
    "transpose_flip_y": ((0, 1), (-1, 0)),
    "transpose_flip_x": ((0, -1), (1, 0)),
    "transpose_flip_yx": ((0, -1), (-1, 0)),
}
"""Direction (y, x) in space of the stored row index and of the stored column index."""


_MOST_SHEAR_RAD = np.radians(1.0)
"""Largest deviation of the angle between both axes from a right angle."""

_MOST_TILT_RAD = np.radians(2.0)
"""Largest angle between the detector's plane and the plane perpendicular to the beam; 2° shortens a pixel by 0.06 %."""


@dataclass(frozen=True)
class DetectorAxes:
    """Directions of a detector's axes.

    Attributes:
        orientation: the nearest of the eight orientations.
        rotation_rad: rotation of the oriented axes in their plane, from x towards y.
        tilt_rad: largest angle of an axis with the plane perpendicular to the beam.
    """

    orientation: Orientation
    rotation_rad: float
    tilt_rad: float


def detector_axes(vectors: NDArray[np.float64]) -> DetectorAxes:
    """Return the directions of a detector's axes. The lengths of the vectors do not matter.

    Args:
        vectors: (3, 2) or (2, 3), directions (x, y, z) of the stored row index and column index.

    Raises:
        ScanError: the detector is not perpendicular to the beam, or its axes are not perpendicular to each other.
    """
    rows = vectors.T if vectors.shape == (3, 2) else vectors
    if rows.shape != (2, 3) or not np.isfinite(rows).all() or not np.linalg.norm(rows, axis=1).all():
        raise _unusable(vectors, "they are not two directions (x, y, z)")
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    tilt_rad = float(np.arcsin(np.clip(np.abs(rows[:, 2]).max(), 0, 1)))
    if tilt_rad > _MOST_TILT_RAD:
        raise _unusable(vectors, f"they are tilted by {np.degrees(tilt_rad):.1f}° towards the beam; at most 2°")
    stored = rows[:, [1, 0]] / np.linalg.norm(rows[:, :2], axis=1, keepdims=True)
    shear_rad = float(np.arcsin(np.clip(stored[0] @ stored[1], -1, 1)))
    if abs(shear_rad) > _MOST_SHEAR_RAD:
        raise _unusable(vectors, f"the angle between them is {90 - np.degrees(shear_rad):.1f}°, not 90° ± 1°")
    # Rows of an oriented matrix are the directions (y, x) of the oriented row index and column index.
    nearest: Orientation = "as_is"
    axes = stored
    for orientation, basis in _BASIS.items():
        oriented = np.array(basis, float).T @ stored
        if np.trace(oriented) > np.trace(axes):
            nearest, axes = orientation, oriented
    rotation_rad = float(np.arctan2(axes[1, 0] - axes[0, 1], np.trace(axes)))
    return DetectorAxes(nearest, rotation_rad, tilt_rad)


def _unusable(vectors: NDArray[np.float64], why: str) -> ScanError:
    return ScanError(
        "The detector must be perpendicular to the beam, with its axes along x and y up to a rotation in its plane.",
        got=f"basis vectors {vectors.tolist()}: {why}.",
        remedy="correct basis_vectors, or set scan.orientation in the recipe.",
    )


def basis_vectors(orientation: Orientation, pixel_size_m: tuple[float, float]) -> NDArray[np.float64]:
    """Return the (3, 2) basis vectors of an orientation. Their lengths are the pixel size (y, x), m."""
    basis = np.zeros((3, 2))
    for column, (along_y, along_x) in enumerate(_BASIS[orientation]):
        basis[1, column], basis[0, column] = along_y * pixel_size_m[0], along_x * pixel_size_m[1]
    return basis
