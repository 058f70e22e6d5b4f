"""The chain that every propagation through an object is: step, transmit, step, transmit, …, step; and its adjoint.

A slice acts at its own mid-plane and neighbouring half steps merge (Strang splitting), so nz slices cost nz + 1 steps.
The gradient is written by hand. With h = conj(∂L/∂ψ*) behind a slice and q = h·ψ there,

    ∂L/∂δ = kΔz·Im q,   ∂L/∂β = −kΔz·Re q,   before the slice h ← T·h,   before the step h ← Pᵀ·h.

It needs the waves behind all slices in reverse order. They are kept (``stored``), or every √nz-th is kept and the rest
computed again (``checkpointed``), or all are undone one by one from the last (``recomputed``): a unitary step has the
inverse Pᴴ, a transmission the inverse 1/T. With the forward pass that is two steps a slice (``stored``) or three.

Views go through each slice in groups that stay in the processor's cache.
"""

import functools
import math
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.memory import empty, free_memory
from bluesky_multislice.optics.sampling import Windows, check_wave_and_object, thickness_of_slices
from bluesky_multislice.optics.transmission import EagerSlice, Slice

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

    def inverse(self, wave: Tensor) -> Tensor:
        """Return P⁻¹·ψ, a new tensor, where the step is unitary."""
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
        exit_wave, ctx.behind, ctx.slices = run.forward(ctx.way)
        ctx.save_for_backward(wave, delta, beta, thickness)
        return exit_wave

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _Run(ctx.chain, *ctx.saved_tensors)
        slices = run.reverse(ctx.way, ctx.behind, ctx.slices)
        undo = ctx.way == "recomputed"
        return *run.backward(gradients[0], slices, undo=undo, spacing=ctx.needs_input_grad[3]), None


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
        self.wave, self.shape = list(wave.split(self.at_once)), wave.shape
        self.make_slice = _maker_of_slices(chain.windows, wave, delta, beta)

    def choose(self) -> str:
        """Return which waves to keep."""
        way = self.chain.gradient
        if way == "auto":
            pixels = sum(group.numel() for group in self.wave) + self.delta[0].numel()
            needed = pixels * len(self.delta) * self.wave[0].element_size()
            share = self.chain.largest(needed / free_memory(self.delta.device))
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

    def forward(self, way: str | None) -> tuple[Tensor, dict[int, _Groups], dict[int, Slice]]:
        """Return the exit wave, the waves behind slices that are to be kept, and those slices."""
        nz = len(self.delta)
        keep = {None: (), "stored": range(nz), "recomputed": (nz - 1,)}.get(way)
        if keep is None:
            every = math.isqrt(nz - 1) + 1
            keep = range(every - 1, nz, every)
        wave, behind, slices = self._through(range(nz), self.wave, keep, self._room(len(keep)))
        exit_wave = torch.cat([self.steps[nz].apply(group) for group in wave])
        return exit_wave, behind, slices if way == "stored" else {}

    def _through(
        self, numbers: range, wave: _Groups, keep: Container[int], room: Tensor
    ) -> tuple[_Groups, dict[int, _Groups], dict[int, Slice]]:
        """Step to each slice and transmit; return the last wave, the kept ones, in their room, and their slices."""
        behind, slices = {}, {}
        passing = empty(self.shape, wave[0])
        for z in numbers:
            here = self._slice(z)
            into = room[len(behind)] if z in keep else passing
            wave = [
                self._absorb(here.transmit(self.steps[z].apply(part), group, into[group]))
                for part, group in zip(wave, self.groups, strict=True)
            ]
            if z in keep:
                behind[z], slices[z] = wave, here
        return wave, behind, slices

    def _room(self, number: int) -> Tensor:
        return empty((number, *self.shape), self.wave[0])

    def _slice(self, z: int) -> Slice:
        return self.make_slice(self.delta[z], self.beta[z], self.chain.wavenumber * self.thickness[z])

    def _absorb(self, wave: Tensor) -> Tensor:
        return wave if self.chain.absorber is None else wave.mul_(self.chain.absorber)

    def reverse(
        self, way: str, behind: dict[int, _Groups], slices: dict[int, Slice]
    ) -> Iterator[tuple[int, Slice, _Groups]]:
        """Yield (z, slice, wave behind the slice) from the last slice to the first."""
        if way == "recomputed":
            yield from self._undo(behind)
            return
        last = len(self.delta)
        if way == "stored":
            yield from ((z, slices[z], behind[z]) for z in reversed(range(last)))
            return
        room = self._room(min(behind) + 1)
        for start in reversed((-1, *behind)):
            numbers = range(start + 1, last)
            _, waves, parts = self._through(numbers, self.wave if start < 0 else behind[start], numbers, room)
            yield from ((z, parts[z], waves[z]) for z in reversed(numbers))
            last = start + 1

    def _undo(self, behind: dict[int, _Groups]) -> Iterator[tuple[int, Slice, _Groups]]:
        """Recompute the waves from a copy of the last one; the slice is undone in place when the next is asked for."""
        (z,) = behind
        wave = [part.clone(memory_format=torch.contiguous_format) for part in behind[z]]
        while True:
            here = self._slice(z)
            yield z, here, wave
            if z == 0:
                return
            wave = [self.steps[z].inverse(part).contiguous() for part in wave]
            z -= 1

    def backward(
        self, gradient: Tensor, slices: Iterator[tuple[int, Slice, _Groups]], *, undo: bool, spacing: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients in wave, δ, β and thickness."""
        h = [part.conj_physical() for part in gradient.resolve_conj().split(self.at_once)]
        in_delta, in_beta = (empty(part.shape, part) for part in (self.delta, self.beta))
        in_distance = [0.0] * len(self.steps)
        in_thickness = [0.0] * len(self.thickness)
        for z, here, wave in slices:
            if spacing:
                in_distance[z + 1] = self._slope(z + 1, h, wave)
            if self.delta.shape[1] == 1:  # Gradients in objects of the views' own are written, not added.
                in_delta[z] = in_beta[z] = 0
            for number, (group, behind) in enumerate(zip(self.groups, wave, strict=True)):
                part = self.steps[z + 1].transpose(h[number])
                h[number] = self._absorb(here.back(part, behind, group, in_delta[z], in_beta[z], undo=undo))
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

    def _slope(self, number: int, h: _Groups, before: _Groups) -> float:
        """Return the gradient in a step's distance from h behind the step and the wave before it."""
        slope = self.steps[number].slope
        return sum(float((a * slope(b)).real.sum(dtype=torch.float64)) for a, b in zip(h, before, strict=True))


def _maker_of_slices(
    windows: Windows | None, wave: Tensor, delta: Tensor, beta: Tensor
) -> Callable[[Tensor, Tensor, float], Slice]:
    """Return what makes a slice from its δ, β and kΔz: fused where it can be done, else eager."""
    single = (wave.dtype, delta.dtype, beta.dtype) == (torch.complex64, torch.float32, torch.float32)
    if not single or wave.device.type != "cpu" or torch.get_num_threads() > 1:
        return functools.partial(EagerSlice, pixels=EagerSlice.seen(windows, wave, delta))
    # numba takes a second to import, which those who compute nothing need not wait for.
    from bluesky_multislice.optics.fused import FusedSlice

    return functools.partial(FusedSlice, first=FusedSlice.seen(windows, wave, delta))


def _views_at_once(wave: Tensor) -> int:
    """Return how many views go through a slice together."""
    if wave.device.type != "cpu":
        return len(wave)
    return max(1, _GROUP_BYTES * torch.get_num_threads() // (wave[0].numel() * wave.element_size()))
