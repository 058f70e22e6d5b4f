"""From the exit wave to the expected intensity on the detector."""

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import frequencies
from bluesky_multislice.optics.propagation import apply_transfer


def far_field(wave: Tensor) -> Tensor:
    """Return |FFT_ortho(ψ)|² of waves (..., y, x), zero frequency at index n//2."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(wave, norm="ortho"), dim=(-2, -1))
    return spectrum.real**2 + spectrum.imag**2


def near_field(wave: Tensor, transfer: Tensor) -> Tensor:
    """Return |F⁻¹[H·F[ψ]]|² of waves (..., y, x) for the transfer function of the way to the detector."""
    field = apply_transfer(wave, transfer)
    return field.real**2 + field.imag**2


def shift_transfer(shape: tuple[int, int], shift: Tensor) -> Tensor:
    """Return the transfer functions (view, y, x) that move a field by ``shift`` pixels (Fourier shift).

    Args:
        shape: pixels (y, x).
        shift: (view, 2) pixels (y, x), towards growing index. Differentiable.
    """
    fy, fx = (frequencies(n, 1.0, device=shift.device).to(shift.dtype) for n in shape)
    phase = -2 * torch.pi * (fy[None, :, None] * shift[:, 0, None, None] + fx * shift[:, 1, None, None])
    return torch.polar(torch.ones_like(phase), phase)
