"""Amplitude misfit and its gradient in one pass over memory, for float32 tensors on the CPU."""

from typing import cast

import numpy as np
import torch
from numpy import float32
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.buffers import empty
from bluesky_multislice.optics.fused_slices import compiled
from bluesky_multislice.optics.threaded_loops import in_threads


def amplitude_misfit(expected: Tensor, measured_amplitude: Tensor, mask: Tensor, floor: float) -> Tensor:
    """Return Σ(√(I_model + floor) − √I)² over good pixels.

    Args:
        expected: I_model (view, y, x), float32 on the CPU.
        measured_amplitude: √I (view, y, x); NaN for pixels that are unusable in a frame.
        mask: (y, x) weight of each pixel.
        floor: intensity.
    """
    return cast(Tensor, _AmplitudeMisfit.apply(expected, measured_amplitude, mask, floor))


class _AmplitudeMisfit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, expected: Tensor, measured_amplitude: Tensor, mask: Tensor, floor: float) -> Tensor:
        slope = empty(expected.shape, expected)
        frames = [part.detach().contiguous().flatten(1).numpy() for part in (expected, measured_amplitude, slope)]
        weight, misfit = mask.contiguous().view(-1).numpy(), np.zeros(len(expected))
        in_threads(
            len(misfit),
            expected.numel(),
            lambda first, last: _misfit(*frames, weight, float32(floor), misfit, first, last),
        )
        ctx.save_for_backward(slope)
        return expected.new_tensor(misfit.sum())

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.saved_tensors[0] * gradients[0], None, None, None


@compiled("void(float32[:, ::1], float32[:, ::1], float32[:, ::1], float32[::1], float32, float64[::1], int64, int64)")
def _misfit(expected, measured, slope, mask, floor, misfit, first, last):
    """Write each frame's misfit, and its derivative with respect to the expected intensity of each pixel."""
    pixels = mask.size
    parts = np.empty(pixels, float32)
    for view in range(first, last):
        model, amplitudes, derivative = expected[view], measured[view], slope[view]
        for i in range(pixels):
            # A value that is not finite minus itself is NaN.
            finite = amplitudes[i] - amplitudes[i] == float32(0)
            weight = mask[i] if finite else float32(0)
            amplitude = amplitudes[i] if finite else float32(0)
            root = np.sqrt(model[i] + floor)
            difference = root - amplitude
            derivative[i] = weight * (difference / root)
            parts[i] = weight * difference * difference
        total = 0.0
        for i in range(pixels):
            total += parts[i]
        misfit[view] = total
