"""The chain that every propagation through an object is: step, transmit, step, transmit, …, step; and its adjoint.

A slice acts at its own mid-plane and neighbouring half steps merge (Strang splitting), so nz slices cost nz + 1 steps.
The gradient is written by hand. With h = conj(∂L/∂ψ*) behind a slice and q = h·ψ there,

    ∂L/∂δ = kΔz·Im q,   ∂L/∂β = −kΔz·Re q,   before the slice h ← T·h,   before the step h ← Pᵀ·h.

It needs the waves behind all slices in reverse order. They are kept (``stored``), or every √nz-th is kept and the rest
computed again (``checkpointed``), or all are undone one by one from the last (``recomputed``): a unitary step has the
inverse conj(Pᵀ conj ψ), a transmission the inverse 1/T. With the forward pass that is two steps a slice (``stored``) or
three.

Views go through each slice in groups that stay in the processor's cache.
"""

import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import psutil
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.sampling import Windows, check_wave_and_object, thickness_of_slices
from bluesky_multislice.optics.transmission import transmission

Gradient = Literal["auto", "stored", "recomputed", "checkpointed"]
_Groups = list[Tensor]

_GROUP_BYTES = 2**20
"""Bytes of a wave that one thread works on at a time: the second-level cache of a present processor."""

_SHARE_OF_MEMORY = 0.25
"""Part of the free memory that stored waves may take."""

_LARGEST_ERROR = 1e-5
"""Relative error that undoing the object's absorption may bring; beyond it checkpoints are used."""


class Step(Protocol):
    """A linear step P of the wave between two transmissions.

    Attributes:
        unitary: whether P⁻¹ = Pᴴ, so that waves can be computed in reverse.
    """

    unitary: bool

    def apply(self, wave: Tensor) -> Tensor:
        """Return P·ψ of waves (view, y, x), a new tensor."""
        ...

    def transpose(self, wave: Tensor) -> Tensor:
        """Return Pᵀ·ψ (no conjugation), a new tensor."""
        ...

    def slope(self, wave: Tensor) -> Tensor:
        """Return (∂P/∂distance)·ψ, a new tensor."""
        ...


def split_step(
    wave: Tensor,
    delta: Tensor,
    beta: Tensor,
    make_step: Callable[[float], Step],
    *,
    wavelength_m: float,
    slice_thickness_m: float | Sequence[float] | Tensor,
    windows: Windows | None = None,
    absorber: Tensor | None = None,
    gradient: Gradient = "auto",
    largest: Callable[[float], float] = float,
) -> Tensor:
    """Return the wave at the exit plane of a thick object.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ (z, y, x), shared by all views, or (z, view, y, x); with ``windows`` planes (z, Y, X) larger than that.
        beta: β, the same shape as δ.
        make_step: distance in metres → the step over it.
        wavelength_m: wavelength.
        slice_thickness_m: thickness of a slice, or one for each.
        windows: first pixel (y, x) of each view's window in the planes.
        absorber: real (y, x) factor on the wave behind every slice.
        gradient: which waves the gradient keeps. ``auto`` stores them where memory allows, else recomputes; where
            absorption, evanescent waves or the absorber forbid that, recomputing falls back on checkpoints.
        largest: returns the largest of a number over all ranks that share the field, so that they decide alike.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes contradict each other.
    """
    check_wave_and_object(wave, delta, beta, windows)
    thickness = thickness_of_slices(slice_thickness_m, len(delta))
    own = delta.ndim == 4
    return _SplitStep.apply(
        wave,
        delta if own else delta[:, None],
        beta if own else beta[:, None],
        thickness,
        _Chain(make_step, wavenumber(wavelength_m), windows, absorber, gradient, largest),
    )


@dataclass(frozen=True)
class _Chain:
    """What of a chain is not differentiated."""

    make_step: Callable[[float], Step]
    wavenumber: float
    windows: Windows | None
    absorber: Tensor | None
    gradient: Gradient
    largest: Callable[[float], float]


class _SplitStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx, wave: Tensor, delta: Tensor, beta: Tensor, thickness: Tensor, chain: _Chain) -> Tensor:
        run = _Run(chain, wave, delta, beta, thickness)
        ctx.chain, ctx.way = chain, run.choose() if any(ctx.needs_input_grad) else None
        exit_wave, ctx.behind, ctx.transmissions = run.forward(ctx.way)
        ctx.save_for_backward(wave, delta, beta, thickness)
        return exit_wave

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _Run(ctx.chain, *ctx.saved_tensors)
        slices = run.reverse(ctx.way, ctx.behind, ctx.transmissions)
        return *run.backward(gradients[0], slices, spacing=ctx.needs_input_grad[3]), None


class _Run:
    """One pass through the object: z-first δ and β (z, 1 or view, Y, X) and what is made from them.

    A wave is a list of groups of views, each with tensors of its own.
    """

    def __init__(self, chain: _Chain, wave: Tensor, delta: Tensor, beta: Tensor, thickness: Tensor) -> None:
        self.chain, self.delta, self.beta = chain, delta, beta
        self.thickness = thickness.tolist()
        ends = [0.0, *self.thickness, 0.0]
        self.steps = [chain.make_step((before + behind) / 2) for before, behind in pairwise(ends)]
        self.at_once = _views_at_once(wave)
        self.groups = [slice(first, first + self.at_once) for first in range(0, len(wave), self.at_once)]
        self.wave = list(wave.split(self.at_once))
        self.seen_pixels = None
        if chain.windows is not None:
            self.seen_pixels = _pixels_of_windows(chain.windows, wave.shape[-2:], delta.shape[-1]).to(wave.device)

    def choose(self) -> str:
        """Return which waves to keep."""
        way = self.chain.gradient
        if way == "auto":
            pixels = sum(group.numel() for group in self.wave) + self.delta[0].numel()
            needed = pixels * len(self.delta) * self.wave[0].element_size()
            share = self.chain.largest(needed / _free_memory(self.delta.device))
            way = "stored" if share < _SHARE_OF_MEMORY else "recomputed"
        if way == "recomputed" and not self._can_be_undone():
            way = "checkpointed"
        return way

    def _can_be_undone(self) -> bool:
        if self.chain.absorber is not None or not all(step.unitary for step in self.steps):
            return False
        depth = sum(t * beta.clamp(min=0) for t, beta in zip(self.thickness, self.beta, strict=True))
        depth = self.chain.largest(float(torch.as_tensor(depth).max()))
        return math.exp(min(self.chain.wavenumber * depth, 700)) * torch.finfo(self.delta.dtype).eps < _LARGEST_ERROR

    def forward(self, way: str | None) -> tuple[Tensor, dict[int, _Groups], dict[int, Tensor]]:
        """Return the exit wave, the waves behind slices that are to be kept, and the transmissions of those slices."""
        nz = len(self.delta)
        keep = {None: (), "stored": range(nz), "recomputed": (nz - 1,)}.get(way)
        if keep is None:
            every = math.isqrt(nz - 1) + 1
            keep = range(every - 1, nz, every)
        wave, behind, transmissions = self._through(range(nz), self.wave, keep)
        exit_wave = torch.cat([self.steps[nz].apply(group) for group in wave])
        return exit_wave, behind, transmissions if way == "stored" else {}

    def _through(
        self, slices: range, wave: _Groups, keep: Container[int]
    ) -> tuple[_Groups, dict[int, _Groups], dict[int, Tensor]]:
        """Step to each slice and transmit; return the last wave, the kept ones and the kept transmissions."""
        behind, transmissions = {}, {}
        for z in slices:
            transmitted = self._transmission(z)
            wave = [
                self._transmit(self.steps[z].apply(part), transmitted, group)
                for part, group in zip(wave, self.groups, strict=True)
            ]
            if z in keep:
                behind[z], transmissions[z] = wave, transmitted
        return wave, behind, transmissions

    def _transmission(self, z: int) -> Tensor:
        wavelength_m = 2 * math.pi / self.chain.wavenumber
        plane = transmission(self.delta[z], self.beta[z], wavelength_m=wavelength_m, thickness_m=self.thickness[z])
        return plane.contiguous()

    def _transmit(self, wave: Tensor, plane: Tensor, group: slice) -> Tensor:
        """Multiply a group of views with what they see of a plane (1 or view, Y, X), in place."""
        if self.seen_pixels is not None:
            pixels = self.seen_pixels[group]
            plane = plane.view(-1).index_select(0, pixels.view(-1)).view(pixels.shape)
        wave.mul_(plane if len(plane) == 1 or self.seen_pixels is not None else plane[group])
        return wave if self.chain.absorber is None else wave.mul_(self.chain.absorber)

    def reverse(
        self, way: str, behind: dict[int, _Groups], transmissions: dict[int, Tensor]
    ) -> Iterator[tuple[int, Tensor, _Groups]]:
        """Yield (z, transmission, wave behind the slice) from the last slice to the first."""
        if way == "recomputed":
            yield from self._undo(behind)
            return
        last = len(self.delta)
        if way == "stored":
            yield from ((z, transmissions[z], behind[z]) for z in reversed(range(last)))
            return
        for start in reversed((-1, *behind)):
            slices = range(start + 1, last)
            _, waves, parts = self._through(slices, self.wave if start < 0 else behind[start], slices)
            yield from ((z, parts[z], waves[z]) for z in reversed(slices))
            last = start + 1

    def _undo(self, behind: dict[int, _Groups]) -> Iterator[tuple[int, Tensor, _Groups]]:
        """Recompute the waves from the last one, conjugated: then the inverse of a step is its transpose."""
        (z,) = behind
        wave = [part.conj_physical() for part in behind[z]]
        while True:
            transmitted = self._transmission(z)
            yield z, transmitted, [part.conj_physical() for part in wave]
            if z == 0:
                return
            inverse = transmitted * torch.exp(2 * self.chain.wavenumber * self.thickness[z] * self.beta[z])
            wave = [
                self.steps[z].transpose(self._transmit(part, inverse, group))
                for part, group in zip(wave, self.groups, strict=True)
            ]
            z -= 1

    def backward(
        self, gradient: Tensor, slices: Iterator[tuple[int, Tensor, _Groups]], *, spacing: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients in wave, δ, β and thickness."""
        h = [part.conj_physical() for part in gradient.resolve_conj().split(self.at_once)]
        in_delta, in_beta = torch.empty_like(self.delta), torch.empty_like(self.beta)
        in_distance = [0.0] * len(self.steps)
        in_thickness = [0.0] * len(self.thickness)
        for z, transmitted, wave in slices:
            if spacing:
                in_distance[z + 1] = self._slope(z + 1, h, wave)
            strength = self.chain.wavenumber * self.thickness[z]
            product = self._back(z, h, wave, transmitted)
            torch.mul(product.imag, strength, out=in_delta[z])
            torch.mul(product.real, -strength, out=in_beta[z])
            if spacing:
                both = in_delta[z] * self.delta[z] + in_beta[z] * self.beta[z]
                in_thickness[z] = float(both.sum(dtype=torch.float64)) / self.thickness[z]
        if spacing:
            in_distance[0] = self._slope(0, h, self.wave)
        in_wave = torch.cat([self.steps[0].transpose(part) for part in h]).conj_physical_()
        if not spacing:
            return in_wave, in_delta, in_beta, None
        halves = [(before + behind) / 2 for before, behind in pairwise(in_distance)]
        in_spacing = torch.tensor([a + b for a, b in zip(in_thickness, halves, strict=True)], dtype=torch.float64)
        return in_wave, in_delta, in_beta, in_spacing

    def _back(self, z: int, h: _Groups, wave: _Groups, transmitted: Tensor) -> Tensor:
        """Bring h from behind the step after a slice to before the slice; return h·ψ (1 or view, Y, X) behind it."""
        product = torch.zeros_like(transmitted)
        for number, (group, behind) in enumerate(zip(self.groups, wave, strict=True)):
            part = self.steps[z + 1].transpose(h[number])
            self._collect(part, behind, product, group)
            h[number] = self._transmit(part, transmitted, group)
        return product

    def _slope(self, number: int, h: _Groups, before: _Groups) -> float:
        """Return the gradient in a step's distance from h behind the step and the wave before it."""
        slope = self.steps[number].slope
        return sum(float((a * slope(b)).real.sum(dtype=torch.float64)) for a, b in zip(h, before, strict=True))

    def _collect(self, h: Tensor, wave: Tensor, planes: Tensor, group: slice) -> None:
        """Add h·ψ of a group of views to the planes (1 or view, Y, X) that they see."""
        if self.seen_pixels is not None:
            planes.view(-1).index_add_(0, self.seen_pixels[group].view(-1), (h * wave).view(-1))
        elif len(planes) > 1:
            torch.mul(h, wave, out=planes[group])
        else:
            planes.add_((h * wave).sum(0, keepdim=True))


def _pixels_of_windows(windows: Windows, shape: Sequence[int], row: int) -> Tensor:
    """Return where in a plane, row by row, the pixels of each window are: (view, y, x), int32."""
    starts = torch.tensor(windows, dtype=torch.int32)
    y, x = (torch.arange(n, dtype=torch.int32) for n in shape)
    return (starts[:, :1, None] + y[:, None]) * row + starts[:, 1:, None] + x


def _views_at_once(wave: Tensor) -> int:
    """Return how many views go through a slice together."""
    if wave.device.type != "cpu":
        return len(wave)
    return max(1, _GROUP_BYTES * torch.get_num_threads() // (wave[0].numel() * wave.element_size()))


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available
