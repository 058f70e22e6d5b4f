"""Finite-difference solution of the one-way wave equation between the transmissions of the slices.

Solves ∂ψ/∂z = (i/2k)∇²⊥ψ, or its wide-angle form, in alternating directions: tridiagonal solves along x, then, on the
transposed field, along y. The steps along x and y commute, so their product has no splitting error. It neglects the
term −XY/4 of √(1 + X + Y) − 1. For a wave at angle α in x and β in y over a distance d this is a phase error of
kd·sin²α·sin²β/4; the paraxial equation has kd(sin²α + sin²β)²/8. ``wide`` therefore removes the error for waves
inclined in x or y alone, and halves it on the diagonal.

The gradient is the adjoint solve: the transpose of a step is the solve with the transposed matrices.
"""

import functools
from typing import Protocol

import torch
from torch import Tensor

from bluesky_multislice.choices import Edges
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.propagation import Distance
from bluesky_multislice.optics.sampling import Pixel, Thickness, Windows, pixel_pair
from bluesky_multislice.optics.split_step import Gradient, split_step
from bluesky_multislice.optics.stencils import Stencil, fractions
from bluesky_multislice.optics.tridiagonal import Solver, Tridiagonal

_LAYER = 16
"""Pixels of the absorbing layer at each end of a line of at least three times this length."""

_LAYER_STRENGTH = 4.0
"""Imaginary stretching at the layer's end; it reflects 1e-5 to 1e-13 of beams with 0.3 to 1.5 rad per pixel."""


_PART_BYTES = 2**20
"""Bytes of a wave that one thread solves at a time, so that they stay in the cache during all levels of reduction."""


class Swap(Protocol):
    """Transposes a field that is distributed by rows into one that is distributed by columns, and back.

    Attributes:
        shape: pixels (y, x) of the whole field.
    """

    shape: tuple[int, int]

    def to_columns(self, rows: Tensor) -> Tensor:
        """Return waves (view, columns held, all y) from waves (view, rows held, all x)."""
        ...

    def to_rows(self, columns: Tensor) -> Tensor:
        """Return waves (view, rows held, all x) from waves (view, columns held, all y)."""
        ...

    def largest(self, number: float) -> float:
        """Return the maximum of a number over all ranks that hold rows."""
        ...


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
    stencil: Stencil = "compact",
    boundary: Edges = "periodic",
    swap: Swap | None = None,
) -> Tensor:
    """Return the wave at the exit plane of a thick object.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ (z, y, x), shared by all views, or (z, view, y, x); with ``windows`` planes (z, Y, X).
        beta: β, the same shape as δ.
        wavelength_m: wavelength.
        pixel_size_m: lateral pitch, one number or (y, x).
        slice_thickness_m: thickness of all slices, or of each slice (z,).
        windows: first pixel (y, x) of each view's window in the planes.
        absorber: real (y, x) factor on the wave behind every slice.
        gradient: which waves are stored for the gradient, see ``split_step``.
        stencil: ``plain`` (second order), ``compact`` (fourth order), or ``wide`` (compact and wide-angle instead of
            paraxial).
        boundary: ``periodic``, or ``outgoing``: waves leave through a layer of 16 pixels at each edge (a third of a
            smaller field), in which the object should be uniform. The layer does not change waves along z.
        swap: exchanges rows between ranks, for a field that is distributed by rows. Each rank passes its own rows of
            all arrays. The gradient with respect to the thickness is then this rank's term of a sum over ranks. All
            ranks must use the same ``gradient``, and not ``auto``, which depends on a rank's own memory.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes are inconsistent.

    Source: Ali et al., Opt. Express 28, 29590 (2020) for the equation; ``stencils`` for the step; Nissen & Kreiss,
    Commun. Comput. Phys. 9, 147 (2011) for the layer.
    """
    field = swap or _LocalSwap((wave.shape[-2], wave.shape[-1]))
    pitches = pixel_pair(pixel_size_m)

    def make_step(distance_m: Distance) -> "_Step":
        # The levels of reduction depend on the distance, so the host waits for one that is refined on an accelerator.
        distance_m = float(distance_m)
        y, x = (
            _line(n, pitch, distance_m, wavelength_m, stencil, boundary, wave.dtype, wave.device)
            for n, pitch in zip(field.shape, pitches, strict=True)
        )
        return _Step(y, x, field, boundary == "periodic")

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
        largest=field.largest,
    )


class _LocalSwap:
    """``Swap`` of a field that one process holds: a transposed view."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape

    def to_columns(self, rows: Tensor) -> Tensor:
        return rows.mT

    def to_rows(self, columns: Tensor) -> Tensor:
        return columns.mT

    def largest(self, number: float) -> float:
        return number


class _Step:
    """The step along x and y, as a ``split_step.Step``."""

    def __init__(self, y: "_Line", x: "_Line", field: Swap, unitary: bool) -> None:
        self.y, self.x, self.field, self.unitary = y, x, field, unitary

    def apply(self, wave: Tensor) -> Tensor:
        columns = self.field.to_columns(self.x.apply(wave, torch.empty_like(wave)))
        return self.field.to_rows(self.y.apply(columns, columns))

    def transpose(self, wave: Tensor) -> Tensor:
        columns = self.field.to_columns(self.x.transpose(wave, torch.empty_like(wave)))
        return self.field.to_rows(self.y.transpose(columns, columns))

    def inverse(self, wave: Tensor) -> Tensor:
        return self.transpose(wave.conj_physical()).conj_physical_()

    def slope(self, wave: Tensor) -> Tensor:
        along_x = self.x.with_slope(wave, torch.zeros_like(wave))
        _, slope = self.y.with_slope(*map(self.field.to_columns, along_x))
        return self.field.to_rows(slope)


@functools.lru_cache(maxsize=64)
def _line(
    n: int,
    pitch_m: float,
    distance_m: float,
    wavelength_m: float,
    stencil: Stencil,
    boundary: Edges,
    dtype: torch.dtype,
    device: torch.device,
) -> "_Line":
    """Return the step along a line; repeated calls return the same object."""
    k = wavenumber(wavelength_m)
    per_distance = 1 / (4 * k * pitch_m**2)
    q, q_slope = fractions(stencil, distance_m * per_distance, k * pitch_m)
    return _Line(_second_difference(n, boundary), q, q_slope * per_distance, dtype, device)


class _Line:
    """The operator ∏ (1 + q̄ₘD)/(1 + qₘD) along the last axis.

    Each factor is computed as q̄/q + (1 − q̄/q)/(1 + qD): one tridiagonal solve and no product with D.

    Args:
        second: second difference D, complex128.
        q: (m,).
        q_slope: ∂q/∂distance (m,).
        dtype: complex type of the waves.
        device: device of the waves.
    """

    def __init__(
        self, second: Tridiagonal, q: Tensor, q_slope: Tensor, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._second = second.to(dtype, device)
        # A line of one pixel has no second difference.
        numbers = q.tolist() if len(second.diagonal) > 1 else []
        self._q_slope = q_slope.tolist()[: len(numbers)]
        self._unchanged = [number.conjugate() / number for number in numbers]
        self._solvers, self._transposed = (
            [Solver(d.one_plus(number), 1 - number.conjugate() / number, dtype, device) for number in numbers]
            for d in (second, second.transposed())
        )

    def apply(self, wave: Tensor, out: Tensor) -> Tensor:
        """Return waves (view, line, n) after the step, in ``out``, which may be ``wave``."""
        return self._sweep(wave, out, self._solvers)

    def transpose(self, wave: Tensor, out: Tensor) -> Tensor:
        """Return the transpose of the step on waves (view, line, n), in ``out``, which may be ``wave``."""
        return self._sweep(wave, out, self._transposed)

    def _sweep(self, wave: Tensor, out: Tensor, solvers: list[Solver]) -> Tensor:
        at_once = _lines_at_once(wave)
        for part, out_part in zip(wave.split(at_once, -2), out.split(at_once, -2), strict=True):
            before = part
            for unchanged, solver in zip(self._unchanged, solvers, strict=True):
                before = torch.add(solver.solve(before), before, alpha=unchanged, out=out_part)
        return out if solvers or out is wave else out.copy_(wave)

    def with_slope(self, wave: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Return the waves after the step and their derivatives in distance, from the same quantities before it."""
        for q_slope, unchanged, solver in zip(self._q_slope, self._unchanged, self._solvers, strict=True):
            after = solver.solve(wave).add_(wave, alpha=unchanged)
            # Divided by the solver's weight, which does not belong to this term.
            source = self._second.product(q_slope.conjugate() * wave - q_slope * after).div_(1 - unchanged)
            wave, slope = after, solver.solve(slope + source).add_(slope, alpha=unchanged)
        return wave, slope


def _lines_at_once(wave: Tensor) -> int:
    """Return the number of lines of waves (view, line, n) that are solved together."""
    if wave.device.type != "cpu":
        return max(1, wave.shape[-2])
    line_bytes = wave.shape[0] * wave.shape[-1] * wave.element_size()
    return max(1, _PART_BYTES * torch.get_num_threads() // line_bytes)


def _second_difference(n: int, boundary: Edges) -> Tridiagonal:
    """Return D at unit pitch: periodic, or (1/s)∂(1/s)∂ in a stretched coordinate with no flux at the ends."""
    ones = torch.ones(n, dtype=torch.complex128)
    if boundary == "periodic":
        return Tridiagonal(ones, -2 * ones, ones)
    at_pixels, between = 1 / _stretch(torch.arange(n), n), 1 / _stretch(torch.arange(n + 1) - 0.5, n)
    between[0] = between[-1] = 0
    lower, upper = at_pixels * between[:-1], at_pixels * between[1:]
    return Tridiagonal(lower, -lower - upper, upper)


def _stretch(position: Tensor, n: int) -> Tensor:
    """Return s = 1 + iσ at positions in pixels; σ grows with the third power of the depth in the layer."""
    width = min(_LAYER, n // 3)
    depth = (width - 0.5 - torch.minimum(position, n - 1 - position)).clamp(min=0) / max(width, 1)
    return 1 + 1j * _LAYER_STRENGTH * depth.to(torch.float64) ** 3
