"""Conversion between CXI's basis vectors and the eight detector orientations."""

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


def orientation_of(vectors: NDArray[np.float64]) -> Orientation:
    """Return the orientation of a detector.

    Args:
        vectors: (3, 2) or (2, 3), directions (x, y, z) of the stored row index and column index.

    Raises:
        ScanError: the detector's axes are not along x and y.
    """
    rows = vectors.T if vectors.shape == (3, 2) else vectors
    if rows.shape == (2, 3) and np.linalg.norm(rows, axis=1).all() and np.isfinite(rows).all():
        directions = tuple(tuple(int(part) for part in np.rint(row[[1, 0]] / np.linalg.norm(row))) for row in rows)
        for orientation, basis in _BASIS.items():
            if basis == directions:
                return orientation
    raise ScanError(
        "The detector must be perpendicular to the beam, with its axes along x and y.",
        got=f"basis vectors {vectors.tolist()}.",
        remedy="correct basis_vectors, or set scan.orientation in the recipe.",
    )


def basis_vectors(orientation: Orientation, pixel_size_m: tuple[float, float]) -> NDArray[np.float64]:
    """Return the (3, 2) basis vectors of an orientation. Their lengths are the pixel size (y, x), m."""
    basis = np.zeros((3, 2))
    for column, (along_y, along_x) in enumerate(_BASIS[orientation]):
        basis[1, column], basis[0, column] = along_y * pixel_size_m[0], along_x * pixel_size_m[1]
    return basis
