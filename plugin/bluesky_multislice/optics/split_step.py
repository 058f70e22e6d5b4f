"""Split-step propagation through an object (step, transmit, step, transmit, …, step) and its adjoint.

A slice acts at its own mid-plane and neighbouring half steps merge (Strang splitting). nz slices therefore cost nz + 1
steps, or nz - 1 if the caller applies the two outer half steps.
The gradient is hand-written. With h = conj(∂L/∂ψ*) behind a slice and q = h·ψ there,

    ∂L/∂δ = kΔz·Im q,   ∂L/∂β = −kΔz·Re q,   before the slice h ← T·h,   before the step h ← Pᵀ·h.

It needs the waves behind all slices in reverse order, by one of three methods. ``stored`` keeps all waves.
``checkpointed`` keeps every √nz-th wave and recomputes the others from it. ``recomputed`` keeps the last wave and
inverts slice after slice: a unitary step has the inverse Pᴴ, a transmission the inverse 1/T. Including the forward
pass, ``stored`` takes two steps per slice, the others three.

The views pass a block of slices in groups that fit into the CPU cache.
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
"""Bytes of the waves that one thread processes at a time; they and their FFT fit into a CPU cache."""

_SHARE_OF_MEMORY = 0.25
"""Fraction of the free memory that stored waves may take."""

_LARGEST_ERROR = 1e-5
"""Largest relative rounding error allowed when inverting the absorption; beyond it, checkpoints are used."""


class Step(Protocol):
    """A linear propagation step P between two transmissions.

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
        """Return P⁻¹·ψ, a new tensor; only valid for a unitary step."""
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
    """Return the wave behind a thick object, at its exit plane or at the mid-plane of its last slice.

    Args:
        wave: complex (view, y, x) at the entrance plane.
        delta: δ (z, y, x), shared by all views, or (z, view, y, x); with ``windows`` planes (z, Y, X) larger than that.
        beta: β, the same shape as δ.
        make_step: distance in metres → propagation step over that distance.
        wavelength_m: wavelength.
        slice_thickness_m: thickness of all slices, or of each slice (z,).
        windows: first pixel (y, x) of each view's window in the planes.
        absorber: real (y, x) factor on the wave behind every slice.
        gradient: which waves are stored for the gradient. ``auto`` stores all waves if memory allows, and otherwise
            recomputes them. ``recomputed`` falls back to checkpoints if absorption, evanescent waves or the absorber
            prevent the inversion.
        between_mid_planes: propagate from the mid-plane of the first slice to the mid-plane of the last one, instead of
            from the entrance plane to the exit plane.
        largest: returns the maximum of a number over all ranks that share the field, so that all decide the same.
        key: everything that the steps depend on except their distance; identifies the captured graph of small waves.
            None: no graph is captured.

    Returns:
        complex (view, y, x). Differentiable in wave, δ, β and thickness.

    Raises:
        ScanError: shapes are inconsistent.
    """
    check_wave_and_object(wave, delta, beta, windows)
    thickness = thickness_of_slices(slice_thickness_m, len(delta))
    chain = _Chain(make_step, wavenumber(wavelength_m), windows, absorber, gradient, between_mid_planes, largest)
    if key is None or gradient != "stored" or thickness.device.type != "cpu" or not uses_fused("graphs", wave.device):
        return _propagated(chain, thickness, wave, delta, beta)
    # The captured function reads the steps' transfer functions, so the steps must live as long as it does.
    chain = replace(chain, make_step=functools.cache(make_step))
    origins = () if windows is None else (on_device(windows, wave.device, torch.int32),)
    key = key, chain.wavenumber, tuple(thickness.tolist()), id(absorber), between_mid_planes
    return replayed(key, functools.partial(_propagated, chain, thickness), wave, delta, beta, *origins)


def _propagated(
    chain: "_Chain", thickness: Tensor, wave: Tensor, delta: Tensor, beta: Tensor, windows: Tensor | None = None
) -> Tensor:
    """Return the exit wave; windows on the device, if given, replace the windows of the chain."""
    chain = chain if windows is None else replace(chain, windows=windows)
    object_per_view = delta.ndim == 4
    planes = (delta, beta) if object_per_view else (delta[:, None], beta[:, None])
    return _SplitStep.apply(wave, *planes, thickness, chain)


@dataclass(frozen=True)
class _Chain:
    """The arguments of a propagation that are not differentiated."""

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
        ctx.chain, ctx.method = chain, run.gradient_method() if any(ctx.needs_input_grad) else None
        exit_wave, ctx.behind, ctx.slices = run.forward(ctx.method)
        ctx.save_for_backward(wave, delta, beta, thickness)
        return exit_wave

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        run = _Run(ctx.chain, *ctx.saved_tensors)
        return *run.backward(gradients[0], ctx.method, ctx.behind, ctx.slices, spacing=ctx.needs_input_grad[3]), None


class _Run:
    """One pass through the object with δ and β (z, 1 or view, Y, X).

    The wave is a list with one tensor per group of views. Each group passes a block of about √nz slices before the next
    group does. The transmissions of a block are computed once for all groups, and few are held at a time.
    """

    def __init__(self, chain: _Chain, wave: Tensor, delta: Tensor, beta: Tensor, thickness: Tensor) -> None:
        self.chain, self.delta, self.beta = chain, delta, beta
        # A thickness on an accelerator stays there: reading it would make the host wait for all queued work.
        on_host = thickness.device.type == "cpu"
        self.thickness: list[float] | list[Tensor] = thickness.tolist() if on_host else list(thickness.unbind())
        inner = [chain.make_step((before + behind) / 2) for before, behind in pairwise(self.thickness)]
        outer = [None if chain.between_mid_planes else chain.make_step(self.thickness[at] / 2) for at in (0, -1)]
        self.steps: list[Step | None] = [outer[0], *inner, outer[1]]
        self.at_once = _views_at_once(wave, chain.largest)
        self.groups = [slice(first, first + self.at_once) for first in range(0, len(wave), self.at_once)]
        self.wave, self.shape = list(wave.split(self.at_once)), wave.shape
        nz = len(delta)
        block_slices = math.isqrt(nz - 1) + 1
        self.blocks = [range(first, min(first + block_slices, nz)) for first in range(0, nz, block_slices)]
        self.make_slice = _slice_factory(chain.windows, wave, delta, beta)

    def gradient_method(self) -> str:
        """Return ``stored``, ``recomputed`` or ``checkpointed``."""
        method = self.chain.gradient
        if method == "auto":
            pixels = sum(group.numel() for group in self.wave) + self.delta[0].numel()
            needed = pixels * len(self.delta) * self.wave[0].element_size()
            share = self.chain.largest(needed / free_memory(self.delta.device))
            method = "stored" if share < _SHARE_OF_MEMORY else "recomputed"
        if method == "recomputed" and not self._is_invertible():
            method = "checkpointed"
        return method

    def _is_invertible(self) -> bool:
        if self.chain.absorber is not None or not all(step.unitary for step in self.steps if step is not None):
            return False
        depth = sum(t * beta.clamp(min=0) for t, beta in zip(self.thickness, self.beta, strict=True))
        depth = self.chain.largest(float(torch.as_tensor(depth).max()))
        return math.exp(min(self.chain.wavenumber * depth, 700)) * torch.finfo(self.delta.dtype).eps < _LARGEST_ERROR

    def forward(self, method: str | None) -> tuple[Tensor, dict[int, _Groups], dict[int, Slice]]:
        """Return the exit wave, the waves stored for the gradient by slice, and the slices if all waves are stored."""
        nz = len(self.delta)
        ends = [block[-1] for block in self.blocks]
        keep = {None: [], "stored": range(nz), "recomputed": [nz - 1], "checkpointed": ends}[method]
        stored, scratch = empty((len(keep), *self.shape), self.wave[0]), empty(self.shape, self.wave[0])
        into = defaultdict(lambda: scratch, zip(keep, stored, strict=True))
        wave, slices = self.wave, {}
        for block in self.blocks:
            block_slices = self._slices(block)
            wave = self._through(block_slices, wave, into)
            if method == "stored":
                slices |= block_slices
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
        """Propagate through slices and write the wave behind slice z to ``into[z]``; return the last wave."""
        last = []
        for part, views in zip(wave, self.groups, strict=True):
            for z, slice_z in slices.items():
                step = self.steps[z]
                before = part if step is None else step.apply(part)
                part = self._absorb(slice_z.transmit(before, views, into[z][views]))
            last.append(part)
        return last

    def _absorb(self, wave: Tensor) -> Tensor:
        return wave if self.chain.absorber is None else wave.mul_(self.chain.absorber)

    def backward(
        self, gradient: Tensor, method: str, behind: dict[int, _Groups], slices: dict[int, Slice], *, spacing: bool
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return the gradients with respect to wave, δ, β and, if ``spacing``, thickness."""
        in_wave = torch.conj_physical(gradient, out=empty(self.shape, self.wave[0]))
        h = list(in_wave.split(self.at_once))
        in_delta, in_beta = (empty(part.shape, part) for part in (self.delta, self.beta))
        if self.delta.shape[1] == 1:  # A shared object's gradients are added up; otherwise they are overwritten.
            in_delta.zero_()
            in_beta.zero_()
        in_distance: list[float | Tensor] = [0.0] * len(self.steps)
        waves, undo = behind, method == "recomputed"
        last = (
            [part.clone(memory_format=torch.contiguous_format) for part in behind[len(self.delta) - 1]] if undo else []
        )
        recomputed = empty((len(self.blocks[0]) if method == "checkpointed" else 0, *self.shape), self.wave[0])
        for block in reversed(self.blocks):
            block_slices = {z: slices[z] for z in block} if slices else self._slices(block)
            if method == "checkpointed":
                into = dict(zip(block, recomputed[: len(block)], strict=True))
                self._through(block_slices, behind[block[0] - 1] if block[0] else self.wave, into)
                waves = {z: list(part.split(self.at_once)) for z, part in into.items()}
            for number, views in enumerate(self.groups):
                for z in reversed(block):
                    wave = last[number] if undo else waves[z][number]
                    if spacing:
                        in_distance[z + 1] += self._slope(z + 1, h[number], wave)
                    after = self._step_back(z + 1, h[number])
                    before = block_slices[z].back(after, wave, views, in_delta[z], in_beta[z], undo=undo)
                    h[number] = self._absorb(before)
                    step = self.steps[z]
                    if undo and z and step is not None:
                        last[number] = step.inverse(wave).contiguous()
        if spacing:
            in_distance[0] = sum(self._slope(0, *parts) for parts in zip(h, self.wave, strict=True))
        for part, views in zip(h, self.groups, strict=True):
            torch.conj_physical(self._step_back(0, part), out=in_wave[views])
        in_thickness = self._in_thickness(in_distance, in_delta, in_beta) if spacing else None
        return in_wave, in_delta, in_beta, in_thickness

    def _step_back(self, number: int, h: Tensor) -> Tensor:
        """Return h before a step from h behind it."""
        step = self.steps[number]
        return h if step is None else step.transpose(h)

    def _slope(self, number: int, h: Tensor, before: Tensor) -> float | Tensor:
        """Return the gradient with respect to a step's distance, from h behind the step and the wave before it."""
        step = self.steps[number]
        return 0.0 if step is None else (h * step.slope(before)).real.sum(dtype=torch.float64)

    def _in_thickness(self, in_distance: list[float | Tensor], in_delta: Tensor, in_beta: Tensor) -> Tensor:
        """Return the gradient with respect to the slices' thickness, from those of the steps' distances, δ and β."""
        gradients = []
        for z, (thickness, before, after) in enumerate(
            zip(self.thickness, in_distance[:-1], in_distance[1:], strict=True)
        ):
            both = in_delta[z] * self.delta[z] + in_beta[z] * self.beta[z]
            gradients.append(both.sum(dtype=torch.float64) / thickness + (before + after) / 2)
        return torch.stack(gradients)


def _slice_factory(
    windows: Windows | Tensor | None, wave: Tensor, delta: Tensor, beta: Tensor
) -> Callable[[Tensor, Tensor, float | Tensor], Slice]:
    """Return a function that makes a slice from its δ, β and kΔz: fused if available, otherwise eager."""
    single = (wave.dtype, delta.dtype, beta.dtype) == (torch.complex64, torch.float32, torch.float32)
    if single and uses_fused("slices", wave.device):
        # Triton is only installed where fused kernels are used.
        from bluesky_multislice.optics.triton_slices import TritonSlice

        return functools.partial(TritonSlice, first=TritonSlice.window_origins(windows, wave))
    if not single or wave.device.type != "cpu":
        return functools.partial(EagerSlice, origins=EagerSlice.window_origins(windows, wave, delta))
    # Imported here because importing numba takes a second.
    from bluesky_multislice.optics.fused_slices import FusedSlice

    return functools.partial(FusedSlice, first=FusedSlice.window_origins(windows, wave, delta))


def _views_at_once(wave: Tensor, largest: Callable[[float], float]) -> int:
    """Return the number of views in a group, the same on every rank that shares the field."""
    if wave.device.type != "cpu":
        return len(wave)
    bytes_per_view = int(largest(wave[0].numel() * wave.element_size()))
    return max(1, _GROUP_BYTES * torch.get_num_threads() // bytes_per_view)
