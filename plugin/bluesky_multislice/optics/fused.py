"""Slices of an object in single precision on the processor: one pass over memory each, compiled by numba.

Source of the polynomials and of the parts of π/2 and ln 2:
Moshier, Cephes library, sinf.c and expf.c; the result differs from the exact T by less than 1.2·10⁻⁷ of one for phases
below 10⁴ rad.
"""

from collections.abc import Callable

import numba
import numpy as np
from numpy import float32, int32
from torch import Tensor

from bluesky_multislice.optics.sampling import Windows


class FusedSlice:
    """A ``Slice`` in one thread; where each view has its own object, T is made again for each use, view by view.

    Args:
        delta: δ (1 or view, Y, X), float32 on the processor.
        beta: β, the same shape and type.
        strength: kΔz.
        first: first pixel that each view sees of the planes, from ``seen``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float, first: np.ndarray) -> None:
        self._delta, self._beta = (planes.detach().reshape(-1).numpy() for planes in (delta, beta))
        self._strength, self._first, self._row = float32(strength), first, delta.shape[-1]
        self._pixels = delta[0].numel()
        self._shared = np.empty(self._pixels, np.complex64) if len(delta) == 1 else None
        if self._shared is not None:
            _transmission(self._delta, self._beta, self._strength, self._shared)

    @staticmethod
    def seen(windows: Windows | None, wave: Tensor, planes: Tensor) -> np.ndarray:
        """Return the first pixel (view,) that each view of waves (view, y, x) sees of planes (z, 1 or view, Y, X)."""
        if windows is not None:
            return np.array([y * planes.shape[-1] + x for y, x in windows], np.int64)
        return np.arange(len(wave), dtype=np.int64) * (planes[0, 0].numel() if planes.shape[1] > 1 else 0)

    def transmit(self, wave: Tensor, group: slice) -> Tensor:
        """Return T·ψ."""
        wave = wave.contiguous()
        _multiply(wave.numpy(), *self._seen_by(group))
        return wave

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Add the gradients of a group of views to those of the slice; return T·h."""
        h = h.contiguous()
        sums = (planes.view(-1).numpy() for planes in (in_delta, in_beta))
        _back(h.numpy(), wave.contiguous().numpy(), *self._seen_by(group), *sums, undo)
        return h

    def _seen_by(self, group: slice) -> tuple[np.ndarray, np.ndarray, np.float32, np.ndarray, np.ndarray, int]:
        plane = np.empty(self._pixels, np.complex64) if self._shared is None else self._shared
        return self._delta, self._beta, self._strength, plane, self._first[group], self._row


def compiled(signature: str) -> Callable[[Callable], Callable]:
    """Compile a function, at its first import only where a folder for compiled code can be written."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}

    def compiled(function: Callable) -> Callable:
        try:
            return numba.njit(signature, cache=True, **options)(function)
        except (RuntimeError, OSError):
            return numba.njit(signature, **options)(function)

    return compiled


_ROUND = float32(1.5 * 2**23)
"""Added, it leaves a number rounded to an integer in the lowest bits."""


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
    turned = (quarter & 1) != 0
    a, b = float32(sine if turned else cosine), float32(cosine if turned else sine)
    # The second bit of the quarter is the sign.
    a = int32(a.view(int32) ^ int32(int32((quarter + int32(1)) & int32(2)) << int32(30)))
    b = int32(b.view(int32) ^ int32(int32(quarter & int32(2)) << int32(30)))
    return a.view(float32), b.view(float32)


@numba.njit(inline="always")
def _exp(x):
    # Written so that what is not a number stays so.
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


@compiled("void(float32[::1], float32[::1], float32, complex64[::1])")
def _transmission(delta, beta, strength, plane):
    for i in range(plane.size):
        cosine, sine = _cos_and_sin(-strength * delta[i])
        modulus = _exp(-strength * beta[i])
        plane[i] = complex(modulus * cosine, modulus * sine)


_SEEN = "float32[::1], float32[::1], float32, complex64[::1], int64[::1], int64"


@compiled(f"void(complex64[:, :, ::1], {_SEEN})")
def _multiply(wave, delta, beta, strength, plane, first, row):
    views, ny, nx = wave.shape
    own = plane.size < delta.size
    for view in range(views):
        start = first[view]
        if own:
            end = start + plane.size
            _transmission(delta[start:end], beta[start:end], strength, plane)
        for y in range(ny):
            at = y * row if own else start + y * row
            psi, t = wave[view, y], plane[at : at + nx]
            for x in range(nx):
                psi[x] *= t[x]


@compiled(f"void(complex64[:, :, ::1], complex64[:, :, ::1], {_SEEN}, float32[::1], float32[::1], boolean)")
def _back(h, wave, delta, beta, strength, plane, first, row, in_delta, in_beta, undo):
    views, ny, nx = wave.shape
    own = plane.size < delta.size
    for view in range(views):
        start = first[view]
        if own:
            end = start + plane.size
            _transmission(delta[start:end], beta[start:end], strength, plane)
        for y in range(ny):
            here = start + y * row
            at = y * row if own else here
            adjoint, psi, t = h[view, y], wave[view, y], plane[at : at + nx]
            to_delta, to_beta = in_delta[here : here + nx], in_beta[here : here + nx]
            for x in range(nx):
                q = adjoint[x] * psi[x]
                to_delta[x] += strength * q.imag
                to_beta[x] -= strength * q.real
                adjoint[x] *= t[x]
            if undo:
                for x in range(nx):
                    scale = float32(1) / (t[x].real * t[x].real + t[x].imag * t[x].imag)
                    psi[x] *= complex(scale * t[x].real, -scale * t[x].imag)
