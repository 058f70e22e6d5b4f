"""Transmission of slices in single precision on the CPU, in one pass over memory each, compiled by numba.

The threads process parts that do not overlap, so the result does not depend on their number.

Source of the polynomials and of the parts of π/2 and ln 2: Moshier, Cephes library, sinf.c and expf.c. The error of T
is below 1.2·10⁻⁷ for phases below 10⁴ rad.
"""

from collections.abc import Callable, Sequence

import numba
import numpy as np
from numpy import float32, int32
from torch import Tensor

from bluesky_multislice.optics.sampling import Windows
from bluesky_multislice.optics.threaded_loops import in_threads


class FusedSlice:
    """A ``Slice`` on the CPU; if each view has its own object, T is recomputed at each use, in registers.

    Args:
        delta: δ (1 or view, Y, X), float32 on the CPU.
        beta: β, the same shape and type.
        strength: kΔz.
        first: first pixel of each view's window in shared planes, from ``window_origins``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float | Tensor, first: np.ndarray) -> None:
        self._delta, self._beta = (planes.detach().numpy() for planes in (delta, beta))
        self._strength, self._first, self._own = float32(strength), first, len(delta) > 1
        if not self._own:
            self._shared = np.empty(delta.shape[1:], np.complex64)
            pixels = _flat(self._delta, self._beta, self._shared)

            def compute(first: int, last: int) -> None:
                delta, beta, plane = (each[first:last] for each in pixels)
                _transmission(delta, beta, self._strength, plane)

            in_threads(self._shared.size, self._shared.size, compute)

    @staticmethod
    def window_origins(windows: Windows | Tensor | None, wave: Tensor, planes: Tensor) -> np.ndarray:
        """Return the first pixel (view, 2), along y and x, of each view's window in the planes."""
        return np.asarray([(0, 0)] * len(wave) if windows is None else windows, np.int64)

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ."""
        waves, first = (wave.contiguous().numpy(), into.numpy()), self._first[group]
        if self._own:
            pixels = _flat(*waves, self._delta[group], self._beta[group])
            self._in_parts(pixels, _multiply_own, self._strength)
        else:
            in_threads(wave.shape[1], wave.numel(), lambda *rows: _multiply(*waves, self._shared, first, *rows))
        return into

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Compute the gradients of a group of views; return T·h."""
        h, first = h.contiguous(), self._first[group]
        waves, sums = (h.numpy(), wave.contiguous().numpy()), (in_delta.numpy(), in_beta.numpy())
        if self._own:
            pixels = _flat(*waves, *(part[group] for part in (self._delta, self._beta, *sums)))
            self._in_parts(pixels, _back_own, self._strength, undo)
        else:
            planes = self._shared, first, sums[0][0], sums[1][0], self._strength, undo
            # Threads share the planes by rows, not by views: windows overlap, and their gradients add up.
            in_threads(len(self._shared), wave.numel(), lambda *rows: _back(*waves, *planes, *rows))
        return h

    @staticmethod
    def _in_parts(pixels: Sequence[np.ndarray], work: Callable[..., None], *numbers: float32 | bool) -> None:
        """Call ``work`` on arrays (pixel,) and these numbers, each thread on its own part of the pixels."""
        in_threads(
            pixels[0].size, pixels[0].size, lambda first, last: work(*(each[first:last] for each in pixels), *numbers)
        )


def _flat(*arrays: np.ndarray) -> list[np.ndarray]:
    return [array.reshape(-1) for array in arrays]


def compiled(signature: str) -> Callable[[Callable], Callable]:
    """Compile a function; the result is cached on disk if a cache folder is writable."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):
            return numba.njit(signature, **options)(function)

    return compiled


_ROUND = float32(1.5 * 2**23)
"""Adding this rounds a number to an integer, which is then in the lowest bits."""


@numba.njit(inline="always")
def _cos_and_sin(phase):
    rounded = float32(phase * float32(2 / np.pi) + _ROUND)
    quarter = rounded.view(int32)
    turns = rounded - _ROUND
    rest = phase - turns * float32(1.5703125)
    rest = rest - turns * float32(4.837512969970703125e-4)
    rest = rest - turns * float32(7.54978995489188216e-8)
    z = rest * rest
    sine = (float32(-1.9515295891e-4) * z + float32(8.3321608736e-3)) * z - float32(1.6666654611e-1)
    sine = sine * (z * rest) + rest
    cosine = (float32(2.443315711809948e-5) * z - float32(1.388731625493765e-3)) * z + float32(4.166664568298827e-2)
    cosine = cosine * (z * z) + (float32(1) - float32(0.5) * z)
    odd = (quarter & 1) != 0
    a, b = float32(sine if odd else cosine), float32(cosine if odd else sine)
    # The second bit of the quadrant gives the sign.
    a = int32(a.view(int32) ^ int32(int32((quarter + int32(1)) & int32(2)) << int32(30)))
    b = int32(b.view(int32) ^ int32(int32(quarter & int32(2)) << int32(30)))
    return a.view(float32), b.view(float32)


@numba.njit(inline="always")
def _exp(x):
    # These comparisons keep NaN.
    x = float32(-87) if x < float32(-87) else x
    x = float32(88) if x > float32(88) else x
    rounded = float32(x * float32(1 / np.log(2)) + _ROUND)
    power = rounded.view(int32)
    halvings = rounded - _ROUND
    rest = x - halvings * float32(0.693359375)
    rest = rest + halvings * float32(2.12194440e-4)
    e = (float32(1.9875691500e-4) * rest + float32(1.3981999507e-3)) * rest + float32(8.3334519073e-3)
    e = ((e * rest + float32(4.1665795894e-2)) * rest + float32(1.6666665459e-1)) * rest + float32(0.5)
    e = e * (rest * rest) + rest + float32(1)
    scale = int32(int32(power << int32(23)) + int32(127 << 23))
    return e * scale.view(float32)


@numba.njit(inline="always")
def _transmitted(delta, beta, strength):
    cosine, sine = _cos_and_sin(-strength * delta)
    modulus = _exp(-strength * beta)
    return complex(modulus * cosine, modulus * sine)


@compiled("void(float32[::1], float32[::1], float32, complex64[::1])")
def _transmission(delta, beta, strength, plane):
    for i in range(plane.size):
        plane[i] = _transmitted(delta[i], beta[i], strength)


@numba.njit(inline="always")
def _inverse(t):
    scale = float32(1) / (t.real * t.real + t.imag * t.imag)
    return complex(scale * t.real, -scale * t.imag)


MADE_AT_ONCE = 512
"""Pixels whose T is computed in a separate loop; a loop over all arrays at once is not vectorised by the compiler."""

_OWN = "complex64[::1], complex64[::1], float32[::1], float32[::1]"
_SHARED = "complex64[:, :, ::1], complex64[:, :, ::1], complex64[:, ::1], int64[:, ::1]"


@compiled(f"void({_OWN}, float32)")
def _multiply_own(wave, into, delta, beta, strength):
    for i in range(wave.size):
        into[i] = wave[i] * _transmitted(delta[i], beta[i], strength)


@compiled(f"void({_OWN}, float32[::1], float32[::1], float32, boolean)")
def _back_own(h, wave, delta, beta, in_delta, in_beta, strength, undo):
    made = np.empty(MADE_AT_ONCE, np.complex64)
    for first in range(0, wave.size, MADE_AT_ONCE):
        part = slice(first, min(first + MADE_AT_ONCE, wave.size))
        adjoint, psi, to_delta, to_beta = h[part], wave[part], in_delta[part], in_beta[part]
        t = made[: psi.size]
        _transmission(delta[part], beta[part], strength, t)
        for i in range(psi.size):
            q = adjoint[i] * psi[i]
            to_delta[i] = strength * q.imag
            to_beta[i] = -strength * q.real
            adjoint[i] *= t[i]
        if undo:
            for i in range(psi.size):
                psi[i] *= _inverse(t[i])


@compiled(f"void({_SHARED}, int64, int64)")
def _multiply(wave, into, plane, first, start, stop):
    """Transmit the rows ``start`` to ``stop`` (exclusive) of all windows."""
    views, _, nx = wave.shape
    for view in range(views):
        y0, x0 = first[view]
        for y in range(start, stop):
            psi, through, t = wave[view, y], into[view, y], plane[y0 + y, x0 : x0 + nx]
            for x in range(nx):
                through[x] = psi[x] * t[x]


@compiled(f"void({_SHARED}, float32[:, ::1], float32[:, ::1], float32, boolean, int64, int64)")
def _back(h, wave, plane, first, in_delta, in_beta, strength, undo, start, stop):
    """Compute the adjoint for rows ``start`` to ``stop`` (exclusive) of the plane, in all windows with these rows."""
    views, ny, nx = wave.shape
    for view in range(views):
        y0, x0 = first[view]
        for y in range(max(start - y0, 0), min(stop - y0, ny)):
            adjoint, psi, t = h[view, y], wave[view, y], plane[y0 + y, x0 : x0 + nx]
            to_delta, to_beta = in_delta[y0 + y, x0 : x0 + nx], in_beta[y0 + y, x0 : x0 + nx]
            for x in range(nx):
                q = adjoint[x] * psi[x]
                to_delta[x] += strength * q.imag
                to_beta[x] -= strength * q.real
                adjoint[x] *= t[x]
            if undo:
                for x in range(nx):
                    psi[x] *= _inverse(t[x])
