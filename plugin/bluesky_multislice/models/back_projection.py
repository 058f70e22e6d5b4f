"""Volumes from projections by filtered back-projection, row by row (algotom's)."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


def back_project(
    projections: NDArray[np.float32], angles_rad: NDArray[np.float64], weights_rad: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return the sum of filtered projections, back-projected: (x, y, x), the first axis along z.

    The values are those of the volume times the pitch. Other angles' volumes can be added.

    Args:
        projections: (angle, y, x) line integrals along the beam; the rotation axis is at (x − 1)/2.
        angles_rad: (angle,) turn of the sample, see ``optics.conventions``.
        weights_rad: (angle,) part of half a turn that each angle stands for, see ``angle_weights``.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), ch. 3.
    """
    # algotom and numba take time and 180 MB, which those who project nothing back need not spend.
    from algotom.rec.reconstruction import apply_ramp_filter, back_projection_cpu

    _, rows, columns = projections.shape
    volume = np.empty((columns, rows, columns), np.float32)
    # The turn of algotom's slices (row, column) has the opposite sense of ours (z, x).
    turns, axis = np.float32(-angles_rad), np.float32((columns - 1) / 2)
    with _one_thread():
        for row in range(rows):
            weighted = projections[:, row] * weights_rad[:, None]
            filtered = apply_ramp_filter(weighted, filter_name="hann", pad=columns // 2)
            volume[:, row] = back_projection_cpu(np.float32(filtered), turns, axis)
    return volume


def angle_weights(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (angle,) the part of half a turn that each angle stands for, half way to its neighbours.

    Views half a turn apart show the same line integrals and count as neighbours. Beside a gap of more than twice the
    median step an angle stands for no more than half of that on this side.
    """
    around = np.asarray(angles_rad) % np.pi
    order = np.argsort(around, kind="stable")
    steps = np.diff(around[order], append=around[order[:1]] + np.pi)
    steps = np.minimum(steps, 2 * np.median(steps[steps > 0]))
    weights = np.empty(len(around))
    weights[order] = (steps + np.roll(steps, 1)) / 2
    return weights


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep numba to one thread: with more, algotom 1.7's loop over angles loses sums (a quarter of the values seen).

    Both may have one OpenMP, in which numba sets the threads of PyTorch, too, from its first question on.
    """
    import numba

    of_torch = torch.get_num_threads()
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(threads)
        torch.set_num_threads(of_torch)
