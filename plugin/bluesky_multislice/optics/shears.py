"""Turns by three shears in Fourier space: exact for a volume whose spectrum ends before the Nyquist frequency.

A turn by θ is a shear of one axis by tan(θ/2), one of the other by sinθ, and the first again. A shear shifts lines,
which Fourier phases do without loss. Source: Larkin, Oldenburg & Klemm, Opt. Commun. 139, 99 (1997).
"""

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor

_LAYERS = 4
"""Planes that are turned together: few enough for a processor's cache."""


class _Filter(torch.autograd.Function):
    """F⁻¹[H·F[·]] of real lines, padded to a period and cut; the transpose takes H*, pads and cuts the other way."""

    @staticmethod
    def forward(ctx, lines: Tensor, transfer: Tensor, period: int, size: int) -> Tensor:
        ctx.period, ctx.size = period, lines.shape[-1]
        ctx.save_for_backward(transfer, lines if transfer.requires_grad else None)
        return torch.fft.irfft(torch.fft.rfft(lines, n=period) * transfer, n=period)[..., :size]

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (gradient,) = gradients
        transfer, lines = ctx.saved_tensors
        before = _Filter.apply(gradient, transfer.conj(), ctx.period, ctx.size)
        if lines is None:
            return before, None, None, None
        pull = torch.fft.rfft(lines, n=ctx.period).conj() * torch.fft.rfft(gradient, n=ctx.period)
        # A real line has every frequency twice, but for 0 and, where the period is even, the last.
        pull[..., 1 : (ctx.period + 1) // 2] *= 2
        return before, pull.sum(tuple(range(pull.ndim - 2))) / ctx.period, None, None


def turn_by_shears(volume: Tensor, angle_rad: float | Tensor, dims: tuple[int, int] = (0, 2)) -> Tensor:
    """Return a volume turned in one of its planes, of the same shape.

    The lab point (b, a) sees the sample point (b·cosθ − a·sinθ, b·sinθ + a·cosθ).

    Args:
        volume: three axes.
        angle_rad: θ; differentiable as a tensor.
        dims: the axes (a, b).
    """
    layers = volume.movedim(dims, (-2, -1))
    _, a, b = layers.shape
    # Lengths and quarter turns are the host's: it waits for an angle that is refined on an accelerator.
    known = angle_rad.item() if isinstance(angle_rad, Tensor) else angle_rad
    angle = angle_rad if isinstance(angle_rad, Tensor) else torch.full((), angle_rad, device=volume.device)
    quarters = round(known / (math.pi / 2))
    layers = layers.rot90(quarters, (-2, -1))
    shears = _shears(
        (layers.shape[1], layers.shape[2]),
        (a, b),
        angle.to(volume.device, torch.float64) - quarters * math.pi / 2,
        known - quarters * math.pi / 2,
        volume.dtype.to_complex(),
    )
    turned = [_shear(part, shears, (a, b)) for part in layers.split(_LAYERS)]
    return torch.cat(turned).movedim((-2, -1), dims)


def _shear(layers: Tensor, shears: tuple[tuple[Tensor, int], ...], out: tuple[int, int]) -> Tensor:
    """Return layers (layer, a, b), sheared along b, a and b."""
    (first, b_period), (second, a_period), (third, _) = shears
    leaning = _Filter.apply(layers, first, b_period, b_period)
    standing = _Filter.apply(leaning.mT, second, a_period, out[0]).mT
    return _Filter.apply(standing, third, b_period, out[1])


def _shears(
    shape: tuple[int, int], out: tuple[int, int], angle_rad: Tensor, known_rad: float, dtype: torch.dtype
) -> tuple[tuple[Tensor, int], ...]:
    """Return (transfer function (line, frequency), period) of three shears from one grid to another with its middle.

    Args:
        shape: pixels (a, b) before.
        out: pixels (a, b) after.
        angle_rad: 0-d, at most an eighth of a turn.
        known_rad: the same, on the host.
        dtype: of the transfer functions.
    """
    (a, b), (a_out, b_out) = shape, out
    a_period, b_period = _periods(shape, out, known_rad)
    tangent, sine = torch.tan(angle_rad / 2), torch.sin(angle_rad)
    of_row, of_column, of_row_out = (
        _from_middle(period, size, angle_rad.device) for period, size in ((a, a), (b_period, b), (a_out, a_out))
    )
    shifts = (
        (tangent * of_row, b_period),
        ((a_out - a) / 2 - sine * of_column, a_period),
        ((b_out - b) / 2 + tangent * of_row_out, b_period),
    )
    return tuple((_shift_transfer(shift, period).to(dtype), period) for shift, period in shifts)


def _shift_transfer(shift: Tensor, period: int) -> Tensor:
    """Return the transfer function (line, frequency) that moves lines by ``shift`` (line,) pixels."""
    frequency = torch.fft.rfftfreq(period, dtype=torch.float64, device=shift.device)
    phase = -2 * torch.pi * shift[:, None] * frequency
    return torch.polar(torch.ones_like(phase), phase)


def _from_middle(period: int, size: int, device: torch.device) -> Tensor:
    """Return the (period,) distance of each pixel from the middle of the first ``size``, the nearer way around."""
    index = torch.arange(period, dtype=torch.float64, device=device)
    return (index - (size - period - 1) / 2) % period - period / 2


def _periods(shape: tuple[int, int], out: tuple[int, int], angle_rad: float) -> tuple[int, int]:
    """Return the lengths (a, b) at which nothing of a full plane comes around to where it is seen."""
    (a, b), (a_out, b_out) = shape, out
    cosine, sine, lean = math.cos(angle_rad), abs(math.sin(angle_rad)), abs(math.tan(angle_rad / 2))
    tall = max(a, a_out, (a_out + a * cosine + b * sine) / 2)
    wide = max(b + lean * a, b_out, (b_out + b * cosine + a * sine) / 2)
    return _fast(tall + 2), _fast(wide + 2)


def _fast(length: float) -> int:
    """Return the next length that the FFT is fast for."""
    return int(next_fast_len(math.ceil(length), real=True))  # pyright: ignore[reportArgumentType]
