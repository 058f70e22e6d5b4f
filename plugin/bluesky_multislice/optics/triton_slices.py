"""Transmission of slices in single precision on an accelerator, in one pass over the waves each, compiled by Triton.

T is computed in registers from δ and β and never stored. If views share an object, a program owns pixels of the plane
and loops over the views that contain them: it computes T once, sums in a fixed order and is the only one to write the
sum. There are no atomic additions, so results are reproducible bit by bit, even with overlapping windows.

Sine, cosine and exponential are implemented here, as in ``fused_slices.py``, because the vendors' functions differ, are
approximate or do not exist. The error of T is below 1.2·10⁻⁷ for phases below 10⁴ rad on all devices and in Triton's
interpreter.

Source of the polynomials and of the parts of π/2 and ln 2: Moshier, Cephes library, sinf.c and expf.c.
"""

# Triton assigns types to kernel arguments at compile time; pyright does not know them.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportCallIssue=false, reportGeneralTypeIssues=false

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluesky_multislice.optics.host import on_device
from bluesky_multislice.optics.sampling import Windows

_BLOCK = 256
"""Pixels per program: two for each thread of four warps, so that waves are read 16 bytes at a time."""

_TILE = (4, 64)
"""Rows and columns of a plane per program if views have windows; a row is 512 bytes of a wave."""

_VIEWS_AT_ONCE = 8
"""Number of views of one plane for which a program computes T once."""


@triton.jit
def _cos_and_sin(phase):
    turns = tl.floor(phase * 0.6366197723675814 + 0.5)
    rest = phase - turns * 1.5703125
    rest = rest - turns * 4.837512969970703125e-4
    rest = rest - turns * 7.54978995489188216e-8
    z = rest * rest
    sine = (-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1
    sine = sine * (z * rest) + rest
    cosine = (2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2
    cosine = cosine * (z * z) + (1.0 - 0.5 * z)
    quarter = turns.to(tl.int32) & 3
    odd = (quarter & 1) != 0
    a = tl.where(odd, sine, cosine)
    b = tl.where(odd, cosine, sine)
    return tl.where((quarter == 1) | (quarter == 2), -a, a), tl.where(quarter >= 2, -b, b)


@triton.jit
def _exp(x):
    # These comparisons keep NaN.
    x = tl.where(x < -87.0, -87.0, x)
    x = tl.where(x > 88.0, 88.0, x)
    halvings = tl.floor(x * 1.4426950408889634 + 0.5)
    rest = x - halvings * 0.693359375
    rest = rest + halvings * 2.12194440e-4
    e = (1.9875691500e-4 * rest + 1.3981999507e-3) * rest + 8.3334519073e-3
    e = ((e * rest + 4.1665795894e-2) * rest + 1.6666665459e-1) * rest + 0.5
    e = e * (rest * rest) + rest + 1.0
    return e * ((halvings.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def _number(strength, STORED: tl.constexpr):
    """Return kΔz: a number, or, if it is refined, loaded from the device."""
    if STORED:
        strength = tl.load(strength).to(tl.float32)
    return strength


@triton.jit
def _transmission(delta, beta, place, valid, strength):
    """Return |T| and the cosine and sine of its phase at indices of a plane."""
    phase = -strength * tl.load(delta + place, mask=valid, other=0.0)
    cosine, sine = _cos_and_sin(phase)
    return _exp(-strength * tl.load(beta + place, mask=valid, other=0.0)), cosine, sine


@triton.jit
def _load(wave, at, valid):
    """Return the real and imaginary parts of complex64 waves, each number loaded as one 8-byte integer."""
    both = tl.load(wave + at, mask=valid, other=0)
    return both.to(tl.int32).to(tl.float32, bitcast=True), (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def _store(wave, at, valid, real, imaginary):
    lower = real.to(tl.int32, bitcast=True).to(tl.int64) & 0xFFFFFFFF
    tl.store(wave + at, lower | (imaginary.to(tl.int32, bitcast=True).to(tl.int64) << 32), mask=valid)


@triton.jit
def _view(number, pixels):
    """Return the offset of a view as a 64-bit integer, which no batch overflows."""
    return (tl.full((), 0, tl.int64) + number) * pixels


@triton.jit
def transmit_planes(
    wave, out, delta, beta, strength, pixels, views, OWN: tl.constexpr, STORED: tl.constexpr, BLOCK: tl.constexpr
):
    """Write T·ψ of a few views, which share one plane or have one plane each."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < pixels
    at_once: tl.constexpr = 1 if OWN else 8
    begin = tl.program_id(1) * at_once
    plane = _view(begin, pixels) if OWN else 0
    strength = _number(strength, STORED)
    modulus, cosine, sine = _transmission(delta + plane, beta + plane, at, valid, strength)
    real, imaginary = modulus * cosine, modulus * sine
    for view in range(begin, tl.minimum(begin + at_once, views)):
        here = _view(view, pixels)
        r, i = _load(wave + here, at, valid)
        _store(out + here, at, valid, r * real - i * imaginary, r * imaginary + i * real)


@triton.jit
def transmit_windows(
    wave, out, delta, beta, first, strength, nx, pixels, row, STORED: tl.constexpr, BLOCK: tl.constexpr
):
    """Write T·ψ of a view's window in the plane, whose rows have ``row`` pixels."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < pixels
    view = tl.program_id(1)
    y = tl.load(first + 2 * view).to(tl.int32) + at // nx
    x = tl.load(first + 2 * view + 1).to(tl.int32) + at % nx
    strength = _number(strength, STORED)
    modulus, cosine, sine = _transmission(delta, beta, y * row + x, valid, strength)
    real, imaginary = modulus * cosine, modulus * sine
    here = _view(view, pixels)
    r, i = _load(wave + here, at, valid)
    _store(out + here, at, valid, r * real - i * imaginary, r * imaginary + i * real)


@triton.jit
def _back(h, wave, at, valid, modulus, cosine, sine, UNDO: tl.constexpr):
    """Replace h by T·h and, with UNDO, ψ by ψ/T; return q = h·ψ."""
    hr, hi = _load(h, at, valid)
    r, i = _load(wave, at, valid)
    real, imaginary = modulus * cosine, modulus * sine
    _store(h, at, valid, hr * real - hi * imaginary, hr * imaginary + hi * real)
    if UNDO:
        real, imaginary = cosine / modulus, sine / modulus
        _store(wave, at, valid, r * real + i * imaginary, i * real - r * imaginary)
    return hr * r - hi * i, hr * i + hi * r


@triton.jit
def back_own(
    h, wave, delta, beta, in_delta, in_beta, strength, pixels,
    UNDO: tl.constexpr, STORED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a view's own plane; replace h by T·h and, with UNDO, ψ by ψ/T."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = at < pixels
    plane = _view(tl.program_id(1), pixels)
    strength = _number(strength, STORED)
    modulus, cosine, sine = _transmission(delta + plane, beta + plane, at, valid, strength)
    real, imaginary = _back(h + plane, wave + plane, at, valid, modulus, cosine, sine, UNDO)
    tl.store(in_delta + plane + at, strength * imaginary, mask=valid)
    tl.store(in_beta + plane + at, -strength * real, mask=valid)


@triton.jit
def back_shared(
    h, wave, delta, beta, first, in_delta, in_beta, strength, ny, nx, rows, row, views,
    WINDOWED: tl.constexpr, UNDO: tl.constexpr, STORED: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Add the gradients of all views to a tile of their shared plane (rows, row); update their h and ψ.

    Each pixel of a view belongs to exactly one tile, so each is updated once.
    """
    across = tl.cdiv(row, WIDTH)
    top = (tl.program_id(0) // across) * HEIGHT
    left = (tl.program_id(0) % across) * WIDTH
    y = top + tl.arange(0, HEIGHT * WIDTH) // WIDTH
    x = left + tl.arange(0, HEIGHT * WIDTH) % WIDTH
    valid = (y < rows) & (x < row)
    place = y * row + x
    strength = _number(strength, STORED)
    modulus, cosine, sine = _transmission(delta, beta, place, valid, strength)
    real = tl.zeros((HEIGHT * WIDTH,), tl.float32)
    imaginary = tl.zeros((HEIGHT * WIDTH,), tl.float32)
    for view in range(0, views):
        here = _view(view, ny * nx)
        if WINDOWED:
            y0 = tl.load(first + 2 * view).to(tl.int32)
            x0 = tl.load(first + 2 * view + 1).to(tl.int32)
            if (y0 < top + HEIGHT) & (y0 + ny > top) & (x0 < left + WIDTH) & (x0 + nx > left):
                seen = valid & (y >= y0) & (y < y0 + ny) & (x >= x0) & (x < x0 + nx)
                at = (y - y0) * nx + x - x0
                r, i = _back(h + here, wave + here, at, seen, modulus, cosine, sine, UNDO)
                real += r
                imaginary += i
        else:
            r, i = _back(h + here, wave + here, place, valid, modulus, cosine, sine, UNDO)
            real += r
            imaginary += i
    for_delta = tl.load(in_delta + place, mask=valid, other=0.0) + strength * imaginary
    for_beta = tl.load(in_beta + place, mask=valid, other=0.0) - strength * real
    tl.store(in_delta + place, for_delta, mask=valid)
    tl.store(in_beta + place, for_beta, mask=valid)


class TritonSlice:
    """A ``Slice`` in single precision on an accelerator.

    Args:
        delta: δ (1 or view, Y, X).
        beta: β, the same shape.
        strength: kΔz, a number, or 0-d on the same device.
        first: first pixel of each view's window, from ``window_origins``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float | Tensor, first: Tensor | None = None) -> None:
        self._delta, self._beta, self._strength = delta.contiguous(), beta.contiguous(), strength
        self._first, self._own, self._stored = first, len(delta) > 1, isinstance(strength, Tensor)

    @staticmethod
    def window_origins(windows: Windows | Tensor | None, wave: Tensor) -> Tensor | None:
        """Return the first pixel (view, 2), along y and x, of each view's window in shared planes; None: no windows."""
        return None if windows is None else on_device(windows, wave.device, torch.int32)

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ."""
        waves = wave.contiguous().view(torch.int64), into.view(torch.int64)
        views, ny, nx = wave.shape
        blocks = triton.cdiv(ny * nx, _BLOCK)
        if self._first is not None:
            plane = (self._delta, self._beta, self._first[group], self._strength, nx, ny * nx, self._delta.shape[-1])
            transmit_windows[blocks, views](*waves, *plane, STORED=self._stored, BLOCK=_BLOCK)
            return into
        planes = self._planes_of(group)
        programs = views if self._own else triton.cdiv(views, _VIEWS_AT_ONCE)
        transmit_planes[blocks, programs](
            *waves, *planes, self._strength, ny * nx, views, OWN=self._own, STORED=self._stored, BLOCK=_BLOCK
        )
        return into

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Compute the gradients of a group of views; return T·h."""
        h, wave = h.contiguous(), wave if undo else wave.contiguous()
        waves = h.view(torch.int64), wave.view(torch.int64)
        views, ny, nx = wave.shape
        if self._own:
            planes = (*self._planes_of(group), in_delta[group], in_beta[group])
            grid = triton.cdiv(ny * nx, _BLOCK), views
            back_own[grid](*waves, *planes, self._strength, ny * nx, UNDO=undo, STORED=self._stored, BLOCK=_BLOCK)
            return h
        windowed = self._first is not None
        rows, row = self._delta.shape[-2:] if windowed else (1, ny * nx)
        height, width = _TILE if windowed else (1, _BLOCK)
        # Windows start at any pixel, so their waves and the plane are read one pixel per thread.
        warps = height * width // (32 if windowed else 64)
        # Without windows the kernel does not read this argument; the plane serves as a placeholder.
        first = self._delta if self._first is None else self._first[group]
        back_shared[(triton.cdiv(rows, height) * triton.cdiv(row, width),)](
            *waves, self._delta, self._beta, first, in_delta, in_beta, self._strength,
            *((ny, nx) if windowed else (rows, row)), rows, row, views,
            WINDOWED=windowed, UNDO=undo, STORED=self._stored, HEIGHT=height, WIDTH=width, num_warps=warps,
        )  # fmt: skip
        return h

    def _planes_of(self, group: slice) -> tuple[Tensor, Tensor]:
        return (self._delta[group], self._beta[group]) if self._own else (self._delta, self._beta)
