"""Filtered back-projection of all rows at once."""

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.optics import on_device
from bluesky_multislice.optics.conventions import centred

_AT_ONCE = 2**24
"""Pixels gathered from projections at once: 200 MB of indices and weights."""


def back_project(
    projections: NDArray[np.float32],
    angles_rad: NDArray[np.float64],
    weights_rad: NDArray[np.float64],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the filtered back-projection (x, y, x), with the first axis along z.

    The values are the volume's times the pitch. Results for subsets of angles can be added.

    Args:
        projections: (angle, y, x) line integrals along the beam; the rotation axis is at (x − 1)/2.
        angles_rad: (angle,) rotation of the sample; see ``optics.conventions``.
        weights_rad: (angle,) angular range that each angle represents; see ``angle_weights``.
        device: device of the computation and of the result.

    Source: Kak & Slaney, Principles of Computerized Tomographic Imaging (1988), ch. 3.
    """
    angles, rows, width = projections.shape
    filtered = ramp_filtered(projections) * weights_rad.astype(np.float32)[:, None, None]
    place = torch.device(device)
    volume = torch.zeros((width, width, rows), device=place)
    at_once = max(1, _AT_ONCE // (2 * width**2))
    for first in range(0, angles, at_once):
        some = slice(first, first + at_once)
        volume += _back_projected(on_device(filtered[some], place), on_device(angles_rad[some], place))
    return volume.mT


def ramp_filtered(
    projections: NDArray[np.floating], *, beyond: Literal["edge", "constant"] = "edge"
) -> NDArray[np.floating]:
    """Return projections (angle, y, x), filtered along x by the band-limited ramp and a Hann window.

    Args:
        projections: (angle, y, x) line integrals.
        beyond: values beyond the borders: those at the borders, or zero; a mode of ``numpy.pad``.

    Source: Kak & Slaney (1988), ch. 3, eq. 61.
    """
    width = projections.shape[-1]
    pad = width // 2
    number = width + 2 * pad
    distance = np.minimum(np.arange(number), number - np.arange(number))
    kernel = np.where(distance % 2 == 1, -1 / (np.pi * np.maximum(distance, 1)) ** 2, 0)
    kernel[0] = 1 / 4
    window = (1 + np.cos(2 * np.pi * np.fft.rfftfreq(number))) / 2
    transfer = (np.fft.rfft(kernel).real * window).astype(np.float32)
    padded = np.pad(projections.astype(np.float32), ((0, 0), (0, 0), (pad, pad)), mode=beyond)
    return np.fft.irfft(np.fft.rfft(padded) * transfer, number)[..., pad : pad + width]


def _back_projected(projections: Tensor, angles_rad: Tensor) -> Tensor:
    """Return the sum (z, x, y) of projections (angle, y, x), each interpolated linearly at every pixel's coordinate."""
    angles, rows, width = projections.shape
    z = x = centred(width, device=projections.device)
    at = x[:, None] * angles_rad.cos() + z[:, None, None] * angles_rad.sin() + (width - 1) / 2
    left = at.floor().clamp(0, width - 2)
    right = (at - left) * ((at >= 0) & (at <= width - 1))
    inside = ((at >= 0) & (at <= width - 1)).double()
    line = torch.arange(angles, device=projections.device) * width
    place = torch.stack([line + left.long(), line + left.long() + 1], -1)
    weight = torch.stack([inside - right, right], -1).to(projections.dtype)
    return functional.embedding_bag(
        place.view(width * width, -1),
        projections.mT.reshape(-1, rows),
        mode="sum",
        per_sample_weights=weight.view(width * width, -1),
    ).view(width, width, rows)


def angle_weights(angles_rad: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (angle,) the part of the range π that each angle represents, up to the midpoints to its neighbours.

    Views that differ by π have the same line integrals and count as neighbours. Next to a gap larger than twice the
    median step, an angle represents at most one median step on that side.
    """
    folded = np.asarray(angles_rad) % np.pi
    order = np.argsort(folded, kind="stable")
    steps = np.diff(folded[order], append=folded[order[:1]] + np.pi)
    steps = np.minimum(steps, 2 * np.median(steps[steps > 0]))
    weights = np.empty(len(folded))
    weights[order] = (steps + np.roll(steps, 1)) / 2
    return weights
