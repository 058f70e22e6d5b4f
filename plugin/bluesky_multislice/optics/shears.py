"""Rotation by three shears in Fourier space: exact for a volume that is band-limited below the Nyquist frequency.

A rotation by θ is a shear of one axis by tan(θ/2), a shear of the other by sinθ, and the first shear again. A shear
shifts lines, which Fourier phases do without loss. Source: Larkin, Oldenburg & Klemm, Opt. Commun. 139, 99 (1997).
"""

import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor

_LAYERS = 4
"""Planes that are rotated together; they fit into a CPU cache."""


class _Filter(torch.autograd.Function):
    """F⁻¹[H·F[·]] of real lines, zero-padded to a period and cropped; the transpose uses H* and swaps both sizes."""

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
        in_transfer = torch.fft.rfft(lines, n=ctx.period).conj() * torch.fft.rfft(gradient, n=ctx.period)
        # A real line has every frequency twice, except 0 and, for an even period, the Nyquist frequency.
        in_transfer[..., 1 : (ctx.period + 1) // 2] *= 2
        return before, in_transfer.sum(tuple(range(in_transfer.ndim - 2))) / ctx.period, None, None


def rotate_by_shears(volume: Tensor, angle_rad: float | Tensor, dims: tuple[int, int] = (0, 2)) -> Tensor:
    """Return a volume rotated in one of its coordinate planes, with the same shape.

    The lab point (b, a) sees the sample point (b·cosθ − a·sinθ, b·sinθ + a·cosθ).

    Args:
        volume: tensor with three axes.
        angle_rad: θ; differentiable as a tensor.
        dims: the axes (a, b) of the plane.
    """
    layers = volume.movedim(dims, (-2, -1))
    _, a, b = layers.shape
    # The host computes padding and quarter turns, so it waits for an angle that is refined on an accelerator.
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
    rotated = [_shear(part, shears, (a, b)) for part in layers.split(_LAYERS)]
    return torch.cat(rotated).movedim((-2, -1), dims)


def _shear(layers: Tensor, shears: tuple[tuple[Tensor, int], ...], out: tuple[int, int]) -> Tensor:
    """Return layers (layer, a, b) after shears along b, a and b."""
    (first, b_period), (second, a_period), (third, _) = shears
    sheared_once = _Filter.apply(layers, first, b_period, b_period)
    sheared_twice = _Filter.apply(sheared_once.mT, second, a_period, out[0]).mT
    return _Filter.apply(sheared_twice, third, b_period, out[1])


def _shears(
    shape: tuple[int, int], out: tuple[int, int], angle_rad: Tensor, known_rad: float, dtype: torch.dtype
) -> tuple[tuple[Tensor, int], ...]:
    """Return (transfer function (line, frequency), period) of the three shears between two concentric grids.

    Args:
        shape: pixels (a, b) before.
        out: pixels (a, b) after.
        angle_rad: 0-d, at most π/4.
        known_rad: the same angle, on the host.
        dtype: type of the transfer functions.
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
    """Return the transfer function (line, frequency) that shifts each line by ``shift`` (line,) pixels."""
    frequency = torch.fft.rfftfreq(period, dtype=torch.float64, device=shift.device)
    phase = -2 * torch.pi * shift[:, None] * frequency
    return torch.polar(torch.ones_like(phase), phase)


def _from_middle(period: int, size: int, device: torch.device) -> Tensor:
    """Return the (period,) shortest periodic distance of each pixel from the middle of the first ``size`` pixels."""
    index = torch.arange(period, dtype=torch.float64, device=device)
    return (index - (size - period - 1) / 2) % period - period / 2


def _periods(shape: tuple[int, int], out: tuple[int, int], angle_rad: float) -> tuple[int, int]:
    """Return the periods (a, b) with which nothing wraps around into the rotated plane."""
    (a, b), (a_out, b_out) = shape, out
    cosine, sine, tangent = math.cos(angle_rad), abs(math.sin(angle_rad)), abs(math.tan(angle_rad / 2))
    a_length = max(a, a_out, (a_out + a * cosine + b * sine) / 2)
    b_length = max(b + tangent * a, b_out, (b_out + b * cosine + a * sine) / 2)
    return _fast_length(a_length + 2), _fast_length(b_length + 2)


def _fast_length(length: float) -> int:
    """Return the next length for which the FFT is fast."""
    return int(next_fast_len(math.ceil(length), real=True))  # pyright: ignore[reportArgumentType]
