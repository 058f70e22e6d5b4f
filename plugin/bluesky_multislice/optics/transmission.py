"""Transmission of a slice of the object, and its adjoint."""

from typing import Protocol

import torch
from torch import Tensor

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.host import on_device
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


def _transmission(delta: Tensor, beta: Tensor, strength: float | Tensor) -> Tensor:
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


class WindowOrigins:
    """Where the windows of views begin in planes that they share, on the device of the waves.

    Args:
        windows: first pixel (y, x) of each view's window.
        shape: pixels (y, x) of a window.
        row: pixels of a row of the planes.
        device: of the waves.
    """

    def __init__(self, windows: Windows | Tensor, shape: tuple[int, int], row: int, device: torch.device) -> None:
        self._first = on_device(windows, device, torch.int64)
        self._shape, self._row = shape, row
        self._flat: Tensor | None = None

    def cut(self, plane: Tensor, group: slice) -> Tensor:
        """Return what a group of views sees (view, y, x) of a plane (y, x)."""
        y, x = self._first[group].unbind(1)
        return plane.unfold(0, self._shape[0], 1).unfold(1, self._shape[1], 1)[y, x]

    def add(self, parts: Tensor, plane: Tensor, group: slice, factor: float | Tensor) -> None:
        """Add real parts (view, y, x) of a group, times a factor, to a contiguous plane; the transpose of ``cut``."""
        pixels, parts = self._pixels[group].view(-1), parts.reshape(-1)
        if isinstance(factor, Tensor):
            plane.view(-1).index_add_(0, pixels, parts * factor)
        else:
            plane.view(-1).index_add_(0, pixels, parts, alpha=factor)

    @property
    def _pixels(self) -> Tensor:
        """Where in a plane, counted row by row, the pixels of each window are: (view, y, x), int32."""
        if self._flat is None:
            y, x = (torch.arange(n, dtype=torch.int32, device=self._first.device) for n in self._shape)
            first = self._first.int()
            self._flat = (first[:, :1, None] + y[:, None]) * self._row + first[:, 1:, None] + x
        return self._flat


def _add(to: Tensor, part: Tensor, factor: float | Tensor) -> None:
    """Add a part times a factor in as few operations as there can be."""
    if isinstance(factor, Tensor):
        to.addcmul_(part, factor)
    else:
        to.add_(part, alpha=factor)


class EagerSlice:
    """A ``Slice`` in eager torch, on any device and in any precision.

    Args:
        delta: δ (1 or view, Y, X).
        beta: β, the same shape.
        strength: kΔz.
        origins: where the window of each view begins, from ``seen``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float | Tensor, origins: WindowOrigins | None) -> None:
        self._plane, self._strength, self._origins = _transmission(delta, beta, strength), strength, origins

    @staticmethod
    def seen(windows: Windows | Tensor | None, wave: Tensor, planes: Tensor) -> WindowOrigins | None:
        """Return where in planes (…, Y, X) each view of waves (view, y, x) is, None where they coincide."""
        if windows is None:
            return None
        return WindowOrigins(windows, (wave.shape[-2], wave.shape[-1]), planes.shape[-1], wave.device)

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ."""
        return torch.mul(wave, self._plane_of(group), out=into)

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Bring the gradients of a group of views into those of the slice; return T·h."""
        product, strength = h * wave, self._strength
        for found, factor, part in ((in_delta, strength, product.imag), (in_beta, -strength, product.real)):
            if self._origins is not None:
                self._origins.add(part, found, group, factor)
            elif len(found) > 1:
                torch.mul(part, factor, out=found[group])
            else:
                _add(found, part.sum(0, keepdim=True), factor)
        plane = self._plane_of(group)
        if undo:
            wave.div_(plane)
        return h.mul_(plane)

    def _plane_of(self, group: slice) -> Tensor:
        """Return T as a group of views sees it."""
        if self._origins is not None:
            return self._origins.cut(self._plane[0], group)
        return self._plane[group] if len(self._plane) > 1 else self._plane
