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
    """Transmission of the waves of a group of views through one slice, and its adjoint."""

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Write T·ψ of a group's waves (view, y, x) to ``into``, which is contiguous, and return it."""
        ...

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Compute ∂L/∂δ = kΔz·Im q and ∂L/∂β = −kΔz·Re q with q = h·ψ; return T·h, in place if h is contiguous.

        If views share the object, the gradients are added to ``in_delta`` and ``in_beta``; otherwise they overwrite
        the planes of these views.

        Args:
            h: conj(∂L/∂ψ*) (view, y, x) behind the slice.
            wave: ψ behind the slice.
            group: indices of these views.
            in_delta: ∂L/∂δ (1 or view, Y, X) of all views, contiguous.
            in_beta: ∂L/∂β, the same shape.
            undo: replace ``wave``, which must be contiguous, by ψ/T.
        """
        ...


class WindowOrigins:
    """First pixels of the views' windows in shared planes, on the device of the waves.

    Args:
        windows: first pixel (y, x) of each view's window.
        shape: pixels (y, x) of a window.
        row: number of pixels in a row of the planes.
        device: device of the waves.
    """

    def __init__(self, windows: Windows | Tensor, shape: tuple[int, int], row: int, device: torch.device) -> None:
        self._first = on_device(windows, device, torch.int64)
        self._shape, self._row = shape, row
        self._flat: Tensor | None = None

    def cut(self, plane: Tensor, group: slice) -> Tensor:
        """Return the windows (view, y, x) of a group of views, cut from a plane (y, x)."""
        y, x = self._first[group].unbind(1)
        return plane.unfold(0, self._shape[0], 1).unfold(1, self._shape[1], 1)[y, x]

    def add(self, parts: Tensor, plane: Tensor, group: slice, factor: float | Tensor) -> None:
        """Add a factor times real windows (view, y, x) of a group to a contiguous plane; the transpose of ``cut``."""
        pixels, parts = self._pixels[group].view(-1), parts.reshape(-1)
        if isinstance(factor, Tensor):
            plane.view(-1).index_add_(0, pixels, parts * factor)
        else:
            plane.view(-1).index_add_(0, pixels, parts, alpha=factor)

    @property
    def _pixels(self) -> Tensor:
        """Flat index of each window's pixels in a plane: (view, y, x), int32."""
        if self._flat is None:
            y, x = (torch.arange(n, dtype=torch.int32, device=self._first.device) for n in self._shape)
            first = self._first.int()
            self._flat = (first[:, :1, None] + y[:, None]) * self._row + first[:, 1:, None] + x
        return self._flat


def _add(to: Tensor, part: Tensor, factor: float | Tensor) -> None:
    """Add a factor times a tensor in place, in one operation."""
    if isinstance(factor, Tensor):
        to.addcmul_(part, factor)
    else:
        to.add_(part, alpha=factor)


class EagerSlice:
    """A ``Slice`` in eager PyTorch, for any device and precision.

    Args:
        delta: δ (1 or view, Y, X).
        beta: β, the same shape.
        strength: kΔz.
        origins: first pixels of the views' windows, from ``window_origins``.
    """

    def __init__(self, delta: Tensor, beta: Tensor, strength: float | Tensor, origins: WindowOrigins | None) -> None:
        self._plane, self._strength, self._origins = _transmission(delta, beta, strength), strength, origins

    @staticmethod
    def window_origins(windows: Windows | Tensor | None, wave: Tensor, planes: Tensor) -> WindowOrigins | None:
        """Return the first pixel of each view's window in planes (…, Y, X); None if waves cover whole planes."""
        if windows is None:
            return None
        return WindowOrigins(windows, (wave.shape[-2], wave.shape[-1]), planes.shape[-1], wave.device)

    def transmit(self, wave: Tensor, group: slice, into: Tensor) -> Tensor:
        """Return T·ψ."""
        return torch.mul(wave, self._plane_of(group), out=into)

    def back(
        self, h: Tensor, wave: Tensor, group: slice, in_delta: Tensor, in_beta: Tensor, *, undo: bool = False
    ) -> Tensor:
        """Compute the gradients of a group of views; return T·h."""
        product, strength = h * wave, self._strength
        for gradient, factor, part in ((in_delta, strength, product.imag), (in_beta, -strength, product.real)):
            if self._origins is not None:
                self._origins.add(part, gradient, group, factor)
            elif len(gradient) > 1:
                torch.mul(part, factor, out=gradient[group])
            else:
                _add(gradient, part.sum(0, keepdim=True), factor)
        plane = self._plane_of(group)
        if undo:
            wave.div_(plane)
        return h.mul_(plane)

    def _plane_of(self, group: slice) -> Tensor:
        """Return T in the windows of a group of views."""
        if self._origins is not None:
            return self._origins.cut(self._plane[0], group)
        return self._plane[group] if len(self._plane) > 1 else self._plane
