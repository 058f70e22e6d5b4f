"""Finite difference of the paraxial wave equation ∂ψ/∂z = (i/2k)∇²⊥ψ between the transmissions of the slices.

Crank–Nicolson in z with alternating directions, and the compact fourth-order stencil δ²/(1 + δ²/12) in x and y. Between
two transmissions the coefficients are constant, so a step along one axis is one matrix (A⁻¹B of the tridiagonal pair),
solved for once in float64 and applied as a product; its gradient is the product with the adjoint matrix, which is the
adjoint solve. The field is periodic, as in the other propagations.
"""

import functools

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.sampling import Pixel, pixel_pair
from bluesky_multislice.optics.transmission import object_slices


def finite_difference(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: Pixel,
    slice_thickness_m: float,
) -> Tensor:
    """Return the wave at the exit plane of a thick object.

    Arguments, result and errors as in ``multislice``.

    Source: Ali et al., Opt. Express 28, 29590 (2020) for the equation; Lele, J. Comput. Phys. 103, 16 (1992) for the
    compact stencil.
    """
    return finite_difference_through(
        wave,
        object_slices(wave, delta, beta, wavelength_m=wavelength_m, thickness_m=slice_thickness_m),
        wavelength_m=wavelength_m,
        pixel_size_m=pixel_pair(pixel_size_m),
        slice_thickness_m=slice_thickness_m,
    )


def finite_difference_through(
    wave: Tensor,
    slices: Tensor,
    *,
    wavelength_m: float,
    pixel_size_m: tuple[float, float],
    slice_thickness_m: float,
) -> Tensor:
    """Return the exit wave for transmissions (z, view, y, x) that have been computed already."""
    distance = slice_thickness_m / 2
    for slice_transmission in slices.unbind(0):
        wave = _step(wave, distance, wavelength_m, pixel_size_m) * slice_transmission
        distance = slice_thickness_m
    return _step(wave, slice_thickness_m / 2, wavelength_m, pixel_size_m)


def _step(wave: Tensor, distance_m: float, wavelength_m: float, pixel_size_m: tuple[float, float]) -> Tensor:
    ny, nx = wave.shape[-2:]
    kind = (distance_m, wavelength_m, wave.dtype, wave.device)
    along_y, along_x = _line_step(ny, pixel_size_m[0], *kind), _line_step(nx, pixel_size_m[1], *kind)
    return along_y @ wave @ along_x.mT


@functools.lru_cache(maxsize=32)
def _line_step(
    n: int, pitch_m: float, distance_m: float, wavelength_m: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the (n, n) matrix of one Crank–Nicolson step along a line."""
    identity = torch.eye(n, dtype=torch.complex128)
    second = torch.roll(identity, 1, 0) + torch.roll(identity, -1, 0) - 2 * identity
    compact = identity + second / 12
    diffraction = 1j * distance_m / (4 * wavenumber(wavelength_m) * pitch_m**2) * second
    return torch.linalg.solve(compact - diffraction, compact + diffraction).to(device=device, dtype=dtype)
