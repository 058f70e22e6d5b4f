"""Transmission of a slice of the object, and its adjoint."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.sampling import Windows


def transmission(delta: Tensor, beta: Tensor, *, wavelength_m: float, thickness_m: float) -> Tensor:
    """Return exp(−ikΔz·δ)·exp(−kΔz·β).

    Args:
        delta: decrement of the refractive index, any shape.
        beta: absorption index, the same shape.
        wavelength_m: wavelength.
        thickness_m: thickness Δz of the slice.
    """
    return _transmission(delta, beta, wavenumber(wavelength_m) * thickness_m)


def _transmission(delta: Tensor, beta: Tensor, strength: float) -> Tensor:
    modulus, phase = torch.exp(-strength * beta), -strength * delta
    return torch.complex(modulus * torch.cos(phase), modulus * torch.sin(phase))


class Slice(Protocol):
    """What a slice does to the waves of a group of views."""

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ of the waves (view, y, x) of a group in other, contiguous memory."""
        ...

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Bring kΔz·Im q into ∂L/∂δ and −kΔz·Re q into ∂L/∂β, q = h·ψ; return T·h, in h's memory if it is contiguous.

        They are added where views share the object, else written over what is there.

        Args:
            h: conj(∂L/∂ψ*) (view, y, x) behind the slice.
            wave: ψ behind the slice.
            group: which views these are.
            in_delta: (1 or view, Y, X) of all views, contiguous.
            in_beta: the same shape.
            undo: leave ψ/T in the wave's memory, which is contiguous.
        """
        ...


class EagerSlice:
    """A ``Slice`` in eager torch, on any device and in any precision.

    Args:
        delta: δ (1 or view, Y, X).
        beta: β, the same shape.
        strength: kΔz.
        pixels: where in the planes the pixels of each view are, from ``seen``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float, pixels: Tensor | None) -> None:
        self._plane, self._strength, self._pixels = _transmission(delta, beta, strength), strength, pixels

    @staticmethod
    def seen(windows: Windows | None, wave: Tensor, planes: Tensor) -> Tensor | None:
        """Return where in planes (z, 1 or view, Y, X) each view of waves (view, y, x) is, None where they coincide."""
        if windows is None:
            return None
        return _pixels_of_windows(windows, wave.shape[-2:], planes.shape[-1]).to(wave.device)

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ."""
        return torch.mul(wave, self._plane_of(group), out=into)

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Bring the gradients of a group of views into those of the slice; return T·h."""
        product = h * wave
        for found, strength, part in (
            (in_delta, self._strength, product.imag),
            (in_beta, -self._strength, product.real),
        ):
            if self._pixels is not None:
                found.view(-1).index_add_(0, self._pixels[group].view(-1), part.reshape(-1), alpha=strength)
            elif len(found) > 1:
                torch.mul(part, strength, out=found[group])
            else:
                found.add_(part.sum(0, keepdim=True), alpha=strength)
        if undo:
            wave.div_(self._plane_of(group))
        return h.mul_(self._plane_of(group))

    def _plane_of(self, group: slice) -> Tensor:
        """Return T as a group of views sees it."""
        if self._pixels is not None:
            pixels = self._pixels[group]
            return self._plane.view(-1).index_select(0, pixels.view(-1)).view(pixels.shape)
        return self._plane[group] if len(self._plane) > 1 else self._plane


def _pixels_of_windows(windows: Windows, shape: Sequence[int], row: int) -> Tensor:
    """Return where in a plane, row by row, the pixels of each window are: (view, y, x), int32."""
    starts = torch.tensor(windows, dtype=torch.int32)
    y, x = (torch.arange(n, dtype=torch.int32) for n in shape)
    return (starts[:, :1, None] + y[:, None]) * row + starts[:, 1:, None] + x
