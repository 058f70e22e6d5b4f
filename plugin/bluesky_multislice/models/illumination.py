"""Embedding and resampling of a probe."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bluesky_multislice.errors import ScanError


def embed(probe: NDArray, window: tuple[int, int]) -> Tensor:
    """Return a probe (mode, y, x) zero-padded to a window at least as large, complex64.

    Raises:
        ScanError: the probe is larger than the window, zero everywhere, or not finite.
    """
    if not np.isfinite(probe).all():
        raise ScanError(
            "The values of a probe must be finite.",
            got="NaN or infinite values.",
            remedy="correct the scan's probe, or omit it: the probe is then estimated from the frames.",
        )
    if not probe.any():
        raise ScanError(
            "A probe must be non-zero somewhere.",
            got="only zeros.",
            remedy="correct the scan's probe, or omit it: the probe is then estimated from the frames.",
        )
    room = [w - n for w, n in zip(window, probe.shape[-2:], strict=True)]
    if min(room) < 0:
        raise ScanError(
            "The probe must fit into the window of a frame.",
            got=f"a probe of {probe.shape[-2:]} for a window of {window}.",
            remedy="cut the probe to the frame's size.",
        )
    (top, left) = (part // 2 for part in room)
    padded = np.pad(probe, ((0, 0), (top, room[0] - top), (left, room[1] - left)))
    return torch.as_tensor(padded, dtype=torch.complex64)


def upsample(probe: NDArray, factor: int) -> NDArray:
    """Return the probe (mode, y, x) on pixels ``factor`` times finer, with the same energy, by padding its spectrum."""
    if factor == 1:
        return probe
    spectrum = np.fft.fftshift(np.fft.fft2(probe, norm="ortho"), axes=(-2, -1))
    sizes = [n * factor for n in probe.shape[-2:]]
    before = [size // 2 - n // 2 for size, n in zip(sizes, probe.shape[-2:], strict=True)]
    room = [(first, size - n - first) for first, size, n in zip(before, sizes, probe.shape[-2:], strict=True)]
    padded = np.pad(spectrum, ((0, 0), *room))
    for axis, size in zip((-2, -1), sizes, strict=True):
        frequency = np.fft.fftshift(np.fft.fftfreq(size))
        # The centres of both grids coincide, not their first pixels.
        phase = np.exp(-1j * np.pi * (factor - 1) * frequency)
        padded = padded * np.expand_dims(phase, -1 if axis == -2 else 0)
    return np.fft.ifft2(np.fft.ifftshift(padded, axes=(-2, -1)), norm="ortho").astype(probe.dtype)


def downsample(probe: NDArray, factor: int) -> NDArray:
    """Return the probe (mode, y, x) on pixels ``factor`` times coarser, by cropping its spectrum.

    The energy of the remaining spectrum is kept. Inverse of ``upsample``.
    """
    if factor == 1:
        return probe
    spectrum = np.fft.fftshift(np.fft.fft2(probe, norm="ortho"), axes=(-2, -1))
    for axis in (-2, -1):
        n = probe.shape[axis]
        size = n // factor
        middle = np.arange(size) + n // 2 - size // 2
        phase = np.exp(1j * np.pi * (factor - 1) * np.fft.fftshift(np.fft.fftfreq(n)))
        spectrum = spectrum * np.expand_dims(phase, -1 if axis == -2 else 0)
        spectrum = np.take(spectrum, middle, axis)
    return np.fft.ifft2(np.fft.ifftshift(spectrum, axes=(-2, -1)), norm="ortho").astype(probe.dtype)
