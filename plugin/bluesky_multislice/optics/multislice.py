"""Multislice propagation: free propagation by FFT from slice to slice."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from bluesky_multislice.choices import Kernel
from bluesky_multislice.optics.propagation import Distance, largest_decay_rate, phase_rate, propagator
from bluesky_multislice.optics.sampling import Pixel, Thickness, Windows, pixel_pair
from bluesky_multislice.optics.split_step import Gradient, split_step


def multislice(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: Thickness,
    windows: Windows | None = None,
    absorber: Tensor | None = None,
    gradient: Gradient = "auto",
    kernel: Kernel = "angular_spectrum",
    between_mid_planes: bool = False,
) -> Tensor:
    """Return the wave behind a thick object, at its exit plane or at the mid-plane of its last slice.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ (z, y, x), shared by all views, or (z, view, y, x); with ``windows`` planes (z, Y, X) larger than that.
        beta: β, the same shape as δ.
        wavelength_m: wavelength.
        pixel_size_m: lateral pitch, one number or (y, x).
        slice_thickness_m: thickness of all slices, or of each slice (z,).
        windows: first pixel (y, x) of each view's window in the planes.
        absorber: real (y, x) factor on the wave behind every slice, against wrap-around (``absorbing_margin``).
        gradient: which waves are stored for the gradient, see ``split_step``.
        kernel: angular spectrum or Fresnel.
        between_mid_planes: propagate from the mid-plane of the first slice to the mid-plane of the last one. The caller
            applies the outer half steps; this saves one FFT pair if it multiplies by a transfer function there anyway.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes are inconsistent.

    Source: Cowley & Moodie, Acta Cryst. 10, 609 (1957); conventions in ``optics/conventions.py``.
    """
    shape, pixel = (wave.shape[-2], wave.shape[-1]), pixel_pair(pixel_size_m)

    def make_step(distance_m: Distance) -> FreeStep:
        make = _new_step if isinstance(distance_m, Tensor) else _free_step
        return make(shape, pixel, wavelength_m, distance_m, kernel, wave.dtype, wave.device)

    return split_step(
        wave,
        delta,
        beta,
        make_step,
        wavelength_m=wavelength_m,
        slice_thickness_m=slice_thickness_m,
        windows=windows,
        absorber=absorber,
        gradient=gradient,
        between_mid_planes=between_mid_planes,
        key=("multislice", pixel, kernel),
    )


class FreeStep:
    """Free propagation over a distance; H(f) = H(−f), so a step is its own transpose.

    Args:
        transfer: H (y, x) in FFT order.
        rate: returns ∂(ln H)/∂distance (y, x), 1/m.
        unitary: whether |H| = 1.
    """

    def __init__(self, transfer: Tensor, rate: Callable[[], Tensor], *, unitary: bool) -> None:
        # Includes the normalisation of the inverse FFT, which would take a tenth of the FFT's time on its own.
        self._transfer, self._rate, self.unitary = transfer / transfer.numel(), rate, unitary

    def apply(self, wave: Tensor) -> Tensor:
        """Return F⁻¹[H·F[ψ]]."""
        return _unscaled_inverse(torch.fft.fft2(wave).mul_(self._transfer))

    transpose = apply

    def inverse(self, wave: Tensor) -> Tensor:
        """Return F⁻¹[H*·F[ψ]]."""
        return _unscaled_inverse(torch.fft.fft2(wave).mul_(self._transfer.conj()))

    def slope(self, wave: Tensor) -> Tensor:
        """Return the derivative of the propagated wave with respect to the distance, 1/m."""
        return _unscaled_inverse(torch.fft.fft2(wave).mul_(self._transfer).mul_(self._rate()))


_unscaled_inverse = functools.partial(torch.fft.ifft2, norm="forward")


def _new_step(
    shape: tuple[int, int],
    pixel_size_m: tuple[float, float],
    wavelength_m: float,
    distance_m: Distance,
    kernel: Kernel,
    dtype: torch.dtype,
    device: torch.device,
) -> FreeStep:
    optics = {"pixel_size_m": pixel_size_m, "wavelength_m": wavelength_m, "kernel": kernel}
    transfer = propagator(shape, distance_m=distance_m, device=device, **optics).to(dtype)
    # A distance on an accelerator is not read: any evanescent wave then makes the step count as not unitary.
    decay = largest_decay_rate(shape, **optics) * (math.inf if isinstance(distance_m, Tensor) else abs(distance_m))
    return FreeStep(
        transfer, lambda: phase_rate(shape, device=device, **optics).to(dtype), unitary=not decay >= _DECAY_THAT_COUNTS
    )


_DECAY_THAT_COUNTS = 1e-5
"""Relative decay over one step below which the step counts as unitary."""

_free_step = functools.lru_cache(maxsize=64)(_new_step)
