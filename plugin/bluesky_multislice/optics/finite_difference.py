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
from bluesky_multislice.optics.sampling import Pixel, Thickness, Windows, pixel_pair
from bluesky_multislice.optics.split_step import Gradient, split_step


def finite_difference(
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
) -> Tensor:
    """Return the wave at the exit plane of a thick object.

    Arguments, result and errors as in ``multislice``.

    Source: Ali et al., Opt. Express 28, 29590 (2020) for the equation; Lele, J. Comput. Phys. 103, 16 (1992) for the
    compact stencil.
    """
    ny, nx = wave.shape[-2:]
    py, px = pixel_pair(pixel_size_m)

    def make_step(distance_m: float) -> _Sweeps:
        kind = (distance_m, wavelength_m, wave.dtype, wave.device)
        return _Sweeps(_line_step(ny, py, *kind), _line_step(nx, px, *kind))

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
    )


class _Sweeps:
    unitary = True

    def __init__(self, along_y: Tensor, along_x: Tensor) -> None:
        self._y, self._x = along_y, along_x

    def apply(self, wave: Tensor, out: Tensor) -> Tensor:
        return out.copy_(self._y @ wave @ self._x.mT)

    transpose = apply

    def slope(self, wave: Tensor) -> Tensor:
        raise NotImplementedError


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
