"""Expected intensity on the detector from the exit wave."""

import torch
from torch import Tensor
from torch.nn import functional

from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics.conventions import frequencies
from bluesky_multislice.optics.propagation import apply_transfer


def far_field(wave: Tensor) -> Tensor:
    """Return |FFT_ortho(ψ)|² of waves (..., y, x), zero frequency at index n//2.

    The squared modulus is scaled, not the FFT, so that dark pixels and their gradients have the same rounding errors as
    in ``fused_detection``.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(wave), dim=(-2, -1))
    return (spectrum.real**2 + spectrum.imag**2) / wave.shape[-2:].numel()


def far_field_of_modes(wave: Tensor) -> Tensor:
    """Return the far-field intensity (view, y, x) of waves (mode, view, y, x), summed over the modes."""
    if wave.dtype != torch.complex64 or wave.device.type != "cpu":
        return far_field(wave).sum(0)
    # Imported here because importing numba takes a second.
    from bluesky_multislice.optics import fused_detection

    return fused_detection.far_field_of_modes(wave)


def near_field(wave: Tensor, transfer: Tensor) -> Tensor:
    """Return |F⁻¹[H·F[ψ]]|² of waves (..., y, x), with the transfer function H from the exit plane to the detector."""
    field = apply_transfer(wave, transfer)
    return field.real**2 + field.imag**2


def shift_transfer(shape: tuple[int, int], shift: Tensor) -> Tensor:
    """Return the transfer functions (view, y, x) that shift a field by ``shift`` pixels (Fourier shift).

    Args:
        shape: pixels (y, x).
        shift: (view, 2) pixels (y, x), positive towards growing index. Differentiable.
    """
    fy, fx = (frequencies(n, 1.0, device=shift.device).to(shift.dtype) for n in shape)
    y, x = (-2 * torch.pi * shift[:, axis, None] * f for axis, f in enumerate((fy, fx)))
    # The product of two lines needs one sine per line element instead of one per pixel.
    y, x = (torch.polar(torch.ones_like(phase), phase) for phase in (y, x))
    return y[:, :, None] * x[:, None, :]


def point_spread_transfer(shape: tuple[int, int], sigma_pixels: float | tuple[float, float] | Tensor) -> Tensor:
    """Return the transfer function (y, x//2 + 1), float64, of a Gaussian point spread function.

    Uses the discrete analogue of the Gaussian, with the transfer function exp(σ²(cos 2πf − 1)). For any width it is
    nowhere negative, sums to 1 and has the variance σ²; the variances of two convolved kernels add.

    Args:
        shape: pixels (y, x) of the frame.
        sigma_pixels: σ in pixels, one number or (y, x); differentiable as a tensor.

    Source: Lindeberg, IEEE Trans. Pattern Anal. Mach. Intell. 12, 234 (1990).
    """
    sigma = torch.as_tensor(sigma_pixels, dtype=torch.float64).expand(2)
    y = torch.cos(2 * torch.pi * frequencies(shape[0], 1.0, device=sigma.device)) - 1
    x = torch.cos(2 * torch.pi * torch.fft.rfftfreq(shape[1], dtype=torch.float64, device=sigma.device)) - 1
    return torch.exp(sigma[0] ** 2 * y)[:, None] * torch.exp(sigma[1] ** 2 * x)


def kernel_transfer(shape: tuple[int, int], kernel: Tensor) -> Tensor:
    """Return the transfer function (y, x//2 + 1), complex128, of a measured point spread function.

    Args:
        shape: pixels (y, x) of the frame.
        kernel: (y, x) intensity of the image of a point, centred at index n//2, no larger than the frame.

    Raises:
        ScanError: the kernel does not fit into a frame, has negative values, or does not sum to 1.
    """
    if kernel.ndim != 2 or any(k > n for k, n in zip(kernel.shape, shape, strict=True)):
        raise ScanError(
            "A point spread function must have the axes (y, x) and fit into a frame.",
            got=f"shape {tuple(kernel.shape)} for frames of {shape}.",
            remedy="crop it around its centre.",
        )
    if not (bool((kernel >= 0).all()) and abs(float(kernel.detach().sum()) - 1) < 1e-5):
        raise ScanError(
            "The values of a point spread function must be non-negative and sum to 1.",
            got=f"a smallest value of {float(kernel.detach().min()):.3g}, sum {float(kernel.detach().sum()):.6g}.",
            remedy="set negative noise to zero, then divide by the sum.",
        )
    frame = functional.pad(kernel.double(), (0, shape[1] - kernel.shape[1], 0, shape[0] - kernel.shape[0]))
    return torch.fft.rfft2(frame.roll([-(n // 2) for n in kernel.shape], (0, 1)))


def blur(intensity: Tensor, transfer: Tensor) -> Tensor:
    """Return the intensity convolved with a point spread function; the frame is periodic.

    Computed in double precision, with negative rounding errors set to zero, because dark pixels are many orders of
    magnitude below bright ones.

    Args:
        intensity: (..., y, x), non-negative.
        transfer: (y, x//2 + 1) from ``point_spread_transfer`` or ``kernel_transfer``.
    """
    shape = (intensity.shape[-2], intensity.shape[-1])
    blurred = torch.fft.irfft2(torch.fft.rfft2(intensity.double()) * transfer, s=shape)
    return blurred.clamp(min=0).to(intensity.dtype)


def bin_pixels(intensity: Tensor, binning: tuple[int, int]) -> Tensor:
    """Return frames (..., y/b, x/b) in which each pixel is the sum of a block of pixels.

    Args:
        intensity: (..., y, x).
        binning: block size b in pixels (y, x).

    Raises:
        ScanError: the frame is not a whole number of blocks.
    """
    shape = (intensity.shape[-2], intensity.shape[-1])
    if min(binning) < 1 or any(n % b for n, b in zip(shape, binning, strict=True)):
        raise ScanError(
            "A binned frame must be a whole number of blocks.",
            got=f"blocks of {binning} pixels in a frame of {shape}.",
            remedy="crop the frame, or bin by divisors of its size.",
        )
    return intensity.unflatten(-1, (-1, binning[1])).unflatten(-3, (-1, binning[0])).sum((-1, -3))
