"""Far-field intensity in single precision on the CPU, and its adjoint, in one pass over memory each.

I = Σ|F[ψ]|²/N over modes, with ∂L/∂ψ* = Fᴴ[2·∂L/∂I·F[ψ]]/N. The zero frequency is in the middle of the intensity, but
at the first pixel of the spectrum. Each pass exchanges the halves of rows while it reads them, instead of an fftshift.
"""

from typing import cast

import numpy as np
import torch
from numpy import float32
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.buffers import empty
from bluesky_multislice.optics.fused_slices import compiled
from bluesky_multislice.optics.threaded_loops import in_threads


def far_field_of_modes(wave: Tensor) -> Tensor:
    """Return Σ|FFT_ortho(ψ)|² (view, y, x) over the modes of waves (mode, view, y, x), complex64 on the CPU."""
    return cast(Tensor, _FarField.apply(wave))


class _FarField(torch.autograd.Function):
    @staticmethod
    def forward(ctx, wave: Tensor) -> Tensor:
        spectrum = torch.fft.fft2(wave).contiguous()
        ctx.save_for_backward(spectrum)
        intensity = empty(wave.shape[1:], spectrum.real)
        arrays, pixels = (spectrum.numpy(), intensity.numpy()), spectrum[0, 0].numel()
        in_threads(
            len(intensity), spectrum.numel(), lambda first, last: _intensity(*arrays, float32(1 / pixels), first, last)
        )
        return intensity

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        (spectrum,), gradient = ctx.saved_tensors, gradients[0].contiguous()
        back = empty(spectrum.shape, spectrum)
        arrays, pixels = (spectrum.numpy(), gradient.numpy(), back.numpy()), spectrum[0, 0].numel()
        in_threads(
            len(gradient), spectrum.numel(), lambda first, last: _adjoint(*arrays, float32(2 / pixels), first, last)
        )
        return torch.fft.ifft2(back, norm="forward")


@compiled("void(complex64[::1], float32[::1], float32, boolean)")
def _add_squares(field, into, scale, more):
    if more:
        for x in range(into.size):
            into[x] += scale * (field[x].real * field[x].real + field[x].imag * field[x].imag)
    else:
        for x in range(into.size):
            into[x] = scale * (field[x].real * field[x].real + field[x].imag * field[x].imag)


@compiled("void(complex64[:, :, :, ::1], float32[:, :, ::1], float32, int64, int64)")
def _intensity(spectrum, intensity, scale, first, last):
    modes, _, ny, nx = spectrum.shape
    right = nx // 2
    left = nx - right
    for view in range(first, last):
        for y in range(ny):
            middle = intensity[view, (y + ny // 2) % ny]
            for mode in range(modes):
                _add_squares(spectrum[mode, view, y, :left], middle[right:], scale, mode > 0)
                _add_squares(spectrum[mode, view, y, left:], middle[:right], scale, mode > 0)


@compiled("void(complex64[::1], float32[::1], complex64[::1], float32)")
def _scale_by(field, factor, into, scale):
    for x in range(into.size):
        into[x] = np.complex64((scale * factor[x]) * field[x])


@compiled("void(complex64[:, :, :, ::1], float32[:, :, ::1], complex64[:, :, :, ::1], float32, int64, int64)")
def _adjoint(spectrum, gradient, back, scale, first, last):
    modes, _, ny, nx = spectrum.shape
    right = nx // 2
    left = nx - right
    for view in range(first, last):
        for y in range(ny):
            middle = gradient[view, (y + ny // 2) % ny]
            for mode in range(modes):
                _scale_by(spectrum[mode, view, y, :left], middle[right:], back[mode, view, y, :left], scale)
                _scale_by(spectrum[mode, view, y, left:], middle[:right], back[mode, view, y, left:], scale)
