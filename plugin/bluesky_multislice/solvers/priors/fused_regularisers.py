"""The common pass of priors for float32 arrays on the CPU: one pass over memory, compiled by numba."""

import numpy as np
from numpy import float32

from bluesky_multislice.optics.fused_slices import compiled
from bluesky_multislice.solvers.priors.common_pass import Weights


def add_gradient(block: np.ndarray, gradient: np.ndarray, counted: tuple[int, int, int], weights: Weights) -> None:
    """Add the gradient of the first planes, rows and columns; the block may contain one neighbour after them.

    Args:
        block: float32 (z, row, column), contiguous; rows may be along y or x.
        gradient: same shape, changed in place.
        counted: numbers of planes, rows and columns to evaluate.
        weights: weights per voxel.
    """
    _add(block, gradient, *counted, *map(float32, weights))


@compiled("void(float32[:,:,::1], float32[:,:,::1], int64, int64, int64, float32, float32, float32, float32, float32)")
def _add(block, gradient, planes, rows, columns, total_variation, along_z, floor, smoothness_z, magnitude):
    to_column, to_row, to_plane = np.empty(columns, float32), np.empty(columns, float32), np.empty(columns, float32)
    # The last column's neighbour, or the last column itself if there is none.
    line, inside = np.empty(columns + 1, float32), min(columns, block.shape[2] - 1)
    for z in range(planes):
        for row in range(rows):
            here, uphill = block[z, row], gradient[z, row]
            last_row, last_plane = row + 1 == block.shape[1], z + 1 == block.shape[0]
            beside = here if last_row else block[z, row + 1]
            behind = here if last_plane else block[z + 1, row]
            line[:columns] = here[:columns]
            line[columns] = here[inside]
            for i in range(columns):
                along_column, along_row, through = line[i + 1] - line[i], beside[i] - line[i], behind[i] - line[i]
                square = along_column * along_column + along_row * along_row + along_z * (through * through) + floor
                factor = total_variation / np.sqrt(square)
                to_column[i], to_row[i] = factor * along_column, factor * along_row
                to_plane[i] = (factor * along_z + smoothness_z) * through
            for i in range(columns):
                sign = float32(line[i] > 0) - float32(line[i] < 0)
                uphill[i] += magnitude * sign - (to_column[i] + to_row[i] + to_plane[i])
            for i in range(inside):
                uphill[i + 1] += to_column[i]
            if not last_row:
                uphill_beside = gradient[z, row + 1]
                for i in range(columns):
                    uphill_beside[i] += to_row[i]
            if not last_plane:
                uphill_behind = gradient[z + 1, row]
                for i in range(columns):
                    uphill_behind[i] += to_plane[i]
