"""The chain that every propagation through an object is: step, transmit, step, transmit, …, step; and its adjoint.

A slice acts at its own mid-plane and neighbouring half steps merge (Strang splitting), so nz slices cost nz + 1 steps,
or nz - 1 where the caller takes the two outer half steps itself.
The gradient is written by hand. With h = conj(∂L/∂ψ*) behind a slice and q = h·ψ there,

    ∂L/∂δ = kΔz·Im q,   ∂L/∂β = −kΔz·Re q,   before the slice h ← T·h,   before the step h ← Pᵀ·h.

It needs the waves behind all slices in reverse order. They are kept (``stored``), or every √nz-th is kept and the rest
computed again (``checkpointed``), or all are undone one by one from the last (``recomputed``): a unitary step has the
inverse Pᴴ, a transmission the inverse 1/T. With the forward pass that is two steps a slice (``stored``) or three.

Views go through a block of slices in groups that stay in the processor's cache.
"""

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bluesky_multislice.optics.accelerator import free_memory
from bluesky_multislice.optics.buffers import empty
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.optics.graphs import replayed
from bluesky_multislice.optics.host import on_device
from bluesky_multislice.optics.kernels import uses_fused
from bluesky_multislice.optics.propagation import Distance
from bluesky_multislice.optics.sampling import Windows, check_wave_and_object, thickness_of_slices
from bluesky_multislice.optics.transmission import EagerSlice, Slice

Gradient = Literal["auto", "stored", "recomputed", "checkpointed"]
_Groups = list[Tensor]

_GROUP_BYTES = 2**20
"""Bytes of a wave that one thread works on at a time: they and their transform stay in a processor's cache."""

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
    make_step: Callable[[Distance], Step],
    *,
    wavelength_m: float,
    slice_thickness_m: float | Sequence[float] | Tensor,
    windows: Windows | None = None,
    absorber: Tensor | None = None,
    gradient: Gradient = "auto",
    between_mid_planes: bool = False,
    largest: Callable[[float], float] = float,
    key: Hashable = None,
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
        between_mid_planes: the wave comes in at the mid-plane of the first slice and goes out at that of the last,
            instead of at the planes of entrance and exit.
        largest: returns the largest of a number over all ranks that share the field, so that they decide alike.
        key: what the steps depend on beside their distance, by which small waves find their captured graph; None has
            none captured.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes contradict each other.
    """
    check_wave_and_object(wave, delta, beta, windows)
    thickness = thickness_of_slices(slice_thickness_m, len(delta))
    chain = _Chain(make_step, wavenumber(wavelength_m), windows, absorber, gradient, between_mid_planes, largest)
    if key is None or gradient != "stored" or thickness.device.type != "cpu" or not uses_fused("graphs", wave.device):
        return _propagated(chain, thickness, wave, delta, beta)
    # The steps live as long as the captured function, which reads their transfer functions.
    chain = replace(chain, make_step=functools.cache(make_step))
    origins = () if windows is None else (on_device(windows, wave.device, torch.int32),)
    key = key, chain.wavenumber, tuple(thickness.tolist()), id(absorber), between_mid_planes
    return replayed(key, functools.partial(_propagated, chain, thickness), wave, delta, beta, *origins)


def _propagated(
    chain: "_Chain", thickness: Tensor, wave: Tensor, delta: Tensor, beta: Tensor, windows: Tensor | None = None
) -> Tensor:
    """Return the wave behind an object; windows on the device stand for those of the chain."""
    chain = chain if windows is None else replace(chain, windows=windows)
    own = delta.ndim == 4
    planes = (delta, beta) if own else (delta[:, None], beta[:, None])
    return _SplitStep.apply(wave, *planes, thickness, chain)


@dataclass(frozen=True)
class _Chain:
    """What of a chain is not differentiated."""

    make_step: Callable[[Distance], Step]
    wavenumber: float
    windows: Windows | Tensor | None
    absorber: Tensor | None
    gradient: Gradient
    between_mid_planes: bool
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
        return *run.backward(gradients[0], ctx.way, ctx.behind, ctx.slices, spacing=ctx.needs_input_grad[3]), None


class _Run:
    """One pass through the object: z-first δ and β (z, 1 or view, Y, X) and what is made from them.

    A wave is a list of groups of views, each with tensors of its own. Each group goes through a block of slices before
    the next does; about √nz slices, so that what is made from their δ and β serves all groups and stays small.
    """

    def __init__(self, chain: _Chain, wave: Tensor, delta: Tensor, beta: Tensor, thickness: Tensor) -> None:
        self.chain, self.delta, self.beta = chain, delta, beta
        # A thickness on an accelerator stays there: to read it, the host would wait for all work before.
        here = thickness.device.type == "cpu"
        self.thickness: list[float] | list[Tensor] = thickness.tolist() if here else list(thickness.unbind())
        inner = [chain.make_step((before + behind) / 2) for before, behind in pairwise(self.thickness)]
        outer = [None if chain.between_mid_planes else chain.make_step(self.thickness[at] / 2) for at in (0, -1)]
        self.steps: list[Step | None] = [outer[0], *inner, outer[1]]
        self.at_once = _views_at_once(wave, chain.largest)
        self.groups = [slice(first, first + self.at_once) for first in range(0, len(wave), self.at_once)]
        self.wave, self.shape = list(wave.split(self.at_once)), wave.shape
        nz = len(delta)
        every = math.isqrt(nz - 1) + 1
        self.blocks = [range(first, min(first + every, nz)) for first in range(0, nz, every)]
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
        if self.chain.absorber is not None or not all(step.unitary for step in self.steps if step is not None):
            return False
        depth = sum(t * beta.clamp(min=0) for t, beta in zip(self.thickness, self.beta, strict=True))
        depth = self.chain.largest(float(torch.as_tensor(depth).max()))
        return math.exp(min(self.chain.wavenumber * depth, 700)) * torch.finfo(self.delta.dtype).eps < _LARGEST_ERROR

    def forward(self, way: str | None) -> tuple[Tensor, dict[int, _Groups], dict[int, Slice]]:
        """Return the exit wave, the waves behind slices that are to be kept, and, where all are, the slices."""
        nz = len(self.delta)
        ends = [block[-1] for block in self.blocks]
        keep = {None: [], "stored": range(nz), "recomputed": [nz - 1], "checkpointed": ends}[way]
        room, passing = empty((len(keep), *self.shape), self.wave[0]), empty(self.shape, self.wave[0])
        into = defaultdict(lambda: passing, zip(keep, room, strict=True))
        wave, slices = self.wave, {}
        for block in self.blocks:
            made = self._slices(block)
            wave = self._through(made, wave, into)
            if way == "stored":
                slices |= made
        exit_wave, step = into[nz - 1], self.steps[nz]
        if step is not None:
            exit_wave = empty(self.shape, self.wave[0])
            for part, views in zip(wave, self.groups, strict=True):
                exit_wave[views] = step.apply(part)
        return exit_wave, {z: list(into[z].split(self.at_once)) for z in keep}, slices

    def _slices(self, numbers: range) -> dict[int, Slice]:
        return {
            z: self.make_slice(self.delta[z], self.beta[z], self.chain.wavenumber * self.thickness[z]) for z in numbers
        }

    def _through(self, slices: dict[int, Slice], wave: _Groups, into: Mapping[int, Tensor]) -> _Groups:
        """Step to each slice and transmit into its memory (view, y, x); return the wave behind the last."""
        last = []
        for part, views in zip(wave, self.groups, strict=True):
            for z, here in slices.items():
                step = self.steps[z]
                before = part if step is None else step.apply(part)
                part = self._absorb(here.transmit(before, views, into[z][views]))
            last.append(part)
        return last

    def _absorb(self, wave: Tensor) -> Tensor:
        return wave if self.chain.absorber is None else wave.mul_(self.chain.absorber)

    def backward(
        self, gradient: Tensor, way: str, behind: dict[int, _Groups], slices: dict[int, Slice], *, spacing: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients in wave, δ, β and thickness."""
        in_wave = torch.conj_physical(gradient, out=empty(self.shape, self.wave[0]))
        h = list(in_wave.split(self.at_once))
        in_delta, in_beta = (empty(part.shape, part) for part in (self.delta, self.beta))
        if self.delta.shape[1] == 1:  # Gradients in objects of the views' own are written, not added.
            in_delta.zero_()
            in_beta.zero_()
        in_distance: list[float | Tensor] = [0.0] * len(self.steps)
        waves, undo = behind, way == "recomputed"
        last = (
            [part.clone(memory_format=torch.contiguous_format) for part in behind[len(self.delta) - 1]] if undo else []
        )
        room = empty((len(self.blocks[0]) if way == "checkpointed" else 0, *self.shape), self.wave[0])
        for block in reversed(self.blocks):
            here = {z: slices[z] for z in block} if slices else self._slices(block)
            if way == "checkpointed":
                into = dict(zip(block, room[: len(block)], strict=True))
                self._through(here, behind[block[0] - 1] if block[0] else self.wave, into)
                waves = {z: list(part.split(self.at_once)) for z, part in into.items()}
            for number, views in enumerate(self.groups):
                for z in reversed(block):
                    wave = last[number] if undo else waves[z][number]
                    if spacing:
                        in_distance[z + 1] += self._slope(z + 1, h[number], wave)
                    after = self._back_over(z + 1, h[number])
                    before = here[z].back(after, wave, views, in_delta[z], in_beta[z], undo=undo)
                    h[number] = self._absorb(before)
                    step = self.steps[z]
                    if undo and z and step is not None:
                        last[number] = step.inverse(wave).contiguous()
        if spacing:
            in_distance[0] = sum(self._slope(0, *parts) for parts in zip(h, self.wave, strict=True))
        for part, views in zip(h, self.groups, strict=True):
            torch.conj_physical(self._back_over(0, part), out=in_wave[views])
        in_thickness = self._in_thickness(in_distance, in_delta, in_beta) if spacing else None
        return in_wave, in_delta, in_beta, in_thickness

    def _back_over(self, number: int, h: Tensor) -> Tensor:
        """Return h before a step, from h behind it."""
        step = self.steps[number]
        return h if step is None else step.transpose(h)

    def _slope(self, number: int, h: Tensor, before: Tensor) -> float | Tensor:
        """Return the gradient in a step's distance from h behind the step and the wave before it."""
        step = self.steps[number]
        return 0.0 if step is None else (h * step.slope(before)).real.sum(dtype=torch.float64)

    def _in_thickness(self, in_distance: list[float | Tensor], in_delta: Tensor, in_beta: Tensor) -> Tensor:
        """Return the gradient in the slices' thickness from those in the steps' distances and in δ and β."""
        found = []
        for z, (thickness, before, after) in enumerate(
            zip(self.thickness, in_distance[:-1], in_distance[1:], strict=True)
        ):
            both = in_delta[z] * self.delta[z] + in_beta[z] * self.beta[z]
            found.append(both.sum(dtype=torch.float64) / thickness + (before + after) / 2)
        return torch.stack(found)


def _maker_of_slices(
    windows: Windows | Tensor | None, wave: Tensor, delta: Tensor, beta: Tensor
) -> Callable[[Tensor, Tensor, float | Tensor], Slice]:
    """Return what makes a slice from its δ, β and kΔz: fused where it can be done, else eager."""
    single = (wave.dtype, delta.dtype, beta.dtype) == (torch.complex64, torch.float32, torch.float32)
    if single and uses_fused("slices", wave.device):
        # Triton is there where fused kernels serve only.
        from bluesky_multislice.optics.triton_slices import TritonSlice

        return functools.partial(TritonSlice, first=TritonSlice.seen(windows, wave))
    if not single or wave.device.type != "cpu":
        return functools.partial(EagerSlice, origins=EagerSlice.seen(windows, wave, delta))
    # numba takes a second to import, which those who compute nothing need not wait for.
    from bluesky_multislice.optics.fused_slices import FusedSlice

    return functools.partial(FusedSlice, first=FusedSlice.seen(windows, wave, delta))


def _views_at_once(wave: Tensor, largest: Callable[[float], float]) -> int:
    """Return how many views go through a slice together, on every rank that shares the field alike."""
    if wave.device.type != "cpu":
        return len(wave)
    bytes_of_a_view = int(largest(wave[0].numel() * wave.element_size()))
    return max(1, _GROUP_BYTES * torch.get_num_threads() // bytes_of_a_view)
