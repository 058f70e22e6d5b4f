"""Small random cases for the comparison of fused and general kernels on one device."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from bluesky_multislice.optics import Part, multislice, with_y_last
from bluesky_multislice.optics.graphs import AcceleratorGraph, Graph, Replays
from bluesky_multislice.optics.interpolation import rotate_in_planes
from bluesky_multislice.optics.taps import KERNELS
from bluesky_multislice.optics.transmission import EagerSlice, Slice
from bluesky_multislice.solvers.optimisers import Adam, Descent, Nesterov, gradient_of
from bluesky_multislice.solvers.priors import (
    Bounds,
    Penalty,
    Scales,
    SmoothnessZ,
    Sparsity,
    TotalVariation,
    apply_bounds,
)

Pairs = Iterable[tuple[Tensor, Tensor]]
"""Results of fused kernels, paired with those of general kernels."""


def largest_difference(pairs: Pairs) -> float:
    """Return the largest relative difference of a pair, by the norm of its second tensor; infinite if not finite."""
    differences = [float((found.detach() - known).norm() / known.norm()) for found, known in pairs]
    return max(difference if math.isfinite(difference) else math.inf for difference in differences)


class _Random:
    """Random tensors on a device, reproducible for the same sequence of calls."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._generator = device, torch.Generator().manual_seed(5)

    def real(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator).to(self._device)

    def wave(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.complex64).to(self._device)


def slices(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield waves and gradients of slices, for a plane shared by all views, one plane per view, and windows.

    Waves have an odd number of pixels; windows touch the plane's edges and each other.
    """
    from bluesky_multislice.optics.triton_slices import TritonSlice

    views, ny, nx = 5, 9, 37
    corners = [(0, 0), (3, 5), (3, 6), (5, 66), (5, 0)]
    for shape, windows in (((1, ny, nx), None), ((views, ny, nx), None), ((1, ny + 5, nx + 66), corners)):
        random = _Random(device)
        delta, beta = 1e-4 * random.real(*shape), 1e-6 * random.real(*shape)
        waves = random.wave(2, views, ny, nx)
        # A refined thickness is a tensor on the device.
        for undo, strength in ((False, 1e5), (True, torch.full((), 1e5, dtype=torch.float64, device=device))):
            general = EagerSlice(delta, beta, strength, EagerSlice.window_origins(windows, waves[0], delta[None]))
            fused = TritonSlice(delta, beta, strength, TritonSlice.window_origins(windows, waves[0]))
            results = (forward_and_adjoint(each, waves, delta, undo) for each in (fused, general))
            yield from zip(*results, strict=True)


def forward_and_adjoint(through: Slice, waves: Tensor, like: Tensor, undo: bool) -> list[Tensor]:
    """Return T·ψ, the adjoint T·h, the gradients, and the final content of the wave's memory."""
    incoming, h = waves[0], waves[1].clone()
    views = slice(0, len(h))
    wave = through.transmit(incoming, views, torch.empty_like(incoming))
    transmitted, gradients = wave.clone(), (torch.ones_like(like), torch.ones_like(like))
    before = through.back(h, wave, views, *gradients, undo=undo)
    return [transmitted, before, *gradients, wave]


def rotations(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield slices of a rotated volume, and their gradients with respect to volume and angle."""
    from bluesky_multislice.optics.triton_rotation import rotate_volume

    nz, ny, nx, slices = 4, 5, 6, 3
    slice_of_plane = tuple(plane * slices // nz for plane in range(nz))
    general: Callable[..., Tensor]
    for kernel in KERNELS:
        general = functools.partial(rotate_in_planes, slice_of_plane=slice_of_plane, kernel=kernel)
        fused = functools.partial(rotate_volume, slices=slices, kernel=kernel)
        for angle in (0.3, -2.2) if kernel == "linear" else (0.3,):
            random = _Random(device)
            volume, weight = with_y_last(random.real(nz, ny, nx)), random.real(slices, ny, nx)
            results = (_rotated_and_gradients(each, volume, angle, weight) for each in (fused, general))
            yield from zip(*results, strict=True)


def _rotated_and_gradients(
    rotation: Callable[..., Tensor], volume: Tensor, angle: float, weight: Tensor
) -> list[Tensor]:
    leaf, theta = volume.clone().requires_grad_(), torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    rotated = rotation(leaf, theta)
    (rotated * weight).sum().backward()
    return [rotated.detach(), gradient_of(leaf), gradient_of(theta)]


_SCALES = Scales(step_rad=0.05)
_PENALTY = Penalty((TotalVariation(3.0, along_z=1.5), Sparsity(0.5), SmoothnessZ(0.7)), _SCALES)
_NO_PENALTY = Penalty((), _SCALES)


def descent(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a volume and its optimiser's moments after steps with regularisers, a weight and bounds."""
    free = Bounds(False)
    shape = (2, 3, 9, 7)
    support = with_y_last(_Random(device).real(*shape[1:]) > -0.5)
    tight = Bounds(True, support, 0.1, 0.5)
    makers: tuple[Callable[[Tensor], Descent], ...] = (
        functools.partial(Nesterov, momentum=0.9),
        functools.partial(Adam, floor=0.01),
    )
    for make in makers:
        for penalty, bounds in ((_PENALTY, tight), (_PENALTY, free), (_NO_PENALTY, tight)):
            results = (
                _after_descent(step, make, penalty, bounds, shape, device) for step in (_fused_step, _general_step)
            )
            yield from zip(*results, strict=True)


def _after_descent(
    step: Callable,
    make: Callable[[Tensor], Descent],
    penalty: Penalty,
    bounds: Bounds,
    shape: tuple,
    device: torch.device,
) -> list[Tensor]:
    random = _Random(device)
    volume, gradient = with_y_last(0.1 * random.real(*shape)), with_y_last(random.real(*shape))
    weight = with_y_last(random.real(*shape[1:]).abs())
    volume.grad = torch.zeros_like(volume)
    method = make(volume)
    for number in (1, 2):
        gradient_of(volume).copy_(number * gradient)
        step(volume, method, penalty, bounds, weight)
    return [volume.clone(), *method.state().values()]


_LENGTH, _PIXELS = 0.1, 7.0


def _general_step(volume: Tensor, method: Descent, penalty: Penalty, bounds: Bounds, weight: Tensor) -> None:
    gradient = gradient_of(volume)
    penalty.add_gradient(volume, gradient, weight=_PIXELS)
    gradient.div_(_PIXELS).mul_(weight)
    method.step(_LENGTH)
    apply_bounds(volume, bounds)


def _fused_step(volume: Tensor, method: Descent, penalty: Penalty, bounds: Bounds, weight: Tensor) -> None:
    from bluesky_multislice.solvers.optimisers.triton_descent import PriorTerm, move

    nothing, gradient = volume[..., :0, :], gradient_of(volume)
    weights = penalty.voxel_weights(volume)
    pixels = torch.full((), _PIXELS, dtype=torch.float64, device=volume.device)
    move(volume, gradient, method.fused_inputs(_LENGTH), PriorTerm(weights, nothing, nothing, pixels), weight, bounds)
    volume.copy_(gradient)


def graphs(device: torch.device, new_graph: Callable[..., Graph] = AcceleratorGraph) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield exit waves and gradients of repeated calls; the last calls replay a graph.

    Args:
        device: the device.
        new_graph: creates the graph that captures the calls.
    """
    replays, random = Replays(new_graph), _Random(device)
    propagate = functools.partial(
        multislice, wavelength_m=1e-9, pixel_size_m=2e-8, slice_thickness_m=[1e-6] * 3, gradient="stored"
    )
    for _ in range(5):
        wave, delta, beta = random.wave(2, 16, 18), 1e-4 * random.real(3, 16, 18), 1e-5 * random.real(3, 16, 18)
        direction = random.wave(2, 16, 18)
        run = functools.partial(replays, "check", propagate)
        results = (propagated(each, (wave, delta, beta), direction) for each in (run, propagate))
        yield from zip(*results, strict=True)
    if not replays.kept:
        raise RuntimeError("nothing was captured")


def propagated(propagate: Callable[..., Tensor], inputs: tuple[Tensor, ...], direction: Tensor) -> list[Tensor]:
    """Return an exit wave, and its gradients with respect to wave, δ and β for a given adjoint wave."""
    leaves = [each.clone().requires_grad_() for each in inputs]
    out = propagate(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, direction)]


CASES: dict[Part, Callable[[torch.device], Pairs]] = {
    "slices": slices,
    "turns": rotations,
    "descent": descent,
    "graphs": graphs,
}
"""In the order of comparison: graphs capture the kernels that have agreed before."""
