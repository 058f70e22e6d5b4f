"""The hand-written adjoint equals automatic differentiation for every choice of stored waves."""

import math
import os
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics import fused_slices, split_step, threaded_loops
from bluesky_multislice.optics.fused_slices import FusedSlice, compiled
from bluesky_multislice.optics.transmission import EagerSlice

WAVELENGTH_M, PIXEL_M = 1.0, (1.5, 2.0)
LIGHT = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": PIXEL_M}
VIEWS, PLANES, SHAPE = 3, 7, (10, 12)
THICKNESS_M = [2.0, 3.0, 1.0, 2.5, 2.0, 4.0, 1.0]
WINDOWS = [(0, 0), (6, 5), (2, 3)]
WAYS = ("stored", "recomputed", "checkpointed", "auto")
OBJECTS = {
    "shared": ((PLANES, *SHAPE), None),
    "own": ((PLANES, VIEWS, *SHAPE), None),
    "one view's": ((PLANES, 1, *SHAPE), None),
    "windows": ((PLANES, 16, 17), WINDOWS),
}
every_way = pytest.mark.parametrize("way", WAYS)


def random(*shape, seed, dtype=torch.float64, scale=1.0):
    return scale * torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def inputs(shape, dtype=torch.complex128, beta=0.01):
    real = torch.zeros((), dtype=dtype).real.dtype
    wave = random(VIEWS, *SHAPE, seed=1, dtype=dtype)
    delta, absorption = (random(*shape, seed=seed, dtype=real, scale=0.03).abs() for seed in (2, 3))
    return [tensor.requires_grad_() for tensor in (wave, delta, absorption * beta / 0.03)]


def chain(wave, delta, beta, thickness, windows=None, absorber=None, kernel="angular_spectrum"):
    """Step, transmit, step, …, in plain differentiable torch."""
    k, ends = 2 * math.pi / WAVELENGTH_M, [0.0, *thickness, 0.0]
    for z, (delta_z, beta_z) in enumerate(zip(delta, beta, strict=True)):
        wave = optics.propagate(wave, distance_m=(ends[z] + ends[z + 1]) / 2, kernel=kernel, **LIGHT)
        transmitted = torch.exp(-k * thickness[z] * (1j * delta_z + beta_z))
        if windows is not None:
            transmitted = torch.stack([transmitted[y : y + SHAPE[0], x : x + SHAPE[1]] for y, x in windows])
        wave = wave * transmitted
        wave = wave if absorber is None else wave * absorber
    return optics.propagate(wave, distance_m=ends[-2] / 2, kernel=kernel, **LIGHT)


def worst(found, expected):
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(found, expected, strict=True))


def wave_and_gradients(function, parts):
    wave = function(*parts)
    return [wave, *torch.autograd.grad(wave, parts, random(*wave.shape, seed=9, dtype=wave.dtype))]


@every_way
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex128, 1e-13), (torch.complex64, 2e-6)])
def test_wave_and_gradients_equal_plain_differentiation(way, kind, dtype, bound):
    shape, windows = OBJECTS[kind]
    parts = inputs(shape, dtype)
    optics_of = {"slice_thickness_m": THICKNESS_M, "windows": windows, "gradient": way, **LIGHT}
    ours = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    plain = wave_and_gradients(lambda *parts: chain(*parts, THICKNESS_M, windows), parts)
    assert worst(ours, plain) < bound


@every_way
@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
@pytest.mark.parametrize("absorbing", [False, True])
def test_kernel_and_absorbing_margin_are_differentiated_too(way, kernel, absorbing):
    parts = inputs((PLANES, *SHAPE))
    mask = optics.absorbing_margin(SHAPE, 3, steps=PLANES) if absorbing else None
    optics_of = {"slice_thickness_m": THICKNESS_M, "absorber": mask, "gradient": way, "kernel": kernel, **LIGHT}
    ours = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    plain = wave_and_gradients(lambda *parts: chain(*parts, THICKNESS_M, None, mask, kernel), parts)
    assert worst(ours, plain) < 1e-13
    other = chain(*parts, THICKNESS_M, None, None if absorbing else optics.absorbing_margin(SHAPE, 3, steps=PLANES))
    assert worst(ours[:1], [other]) > 1e-3


@every_way
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 10])
def test_any_number_of_slices(way, number):
    parts = inputs((number, *SHAPE))
    thickness = [2.0] * number
    optics_of = {"slice_thickness_m": 2.0, "gradient": way, **LIGHT}
    ours = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    assert worst(ours, wave_and_gradients(lambda *parts: chain(*parts, thickness), parts)) < 1e-13


@every_way
@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("number", [1, 2, 7])
def test_outer_half_steps_may_be_the_callers(way, kind, number):
    shape, windows = OBJECTS[kind]
    parts, thickness = inputs((number, *shape[1:])), THICKNESS_M[:number]
    optics_of = {"slice_thickness_m": thickness, "windows": windows, "gradient": way, **LIGHT}

    def between(wave, delta, beta):
        entered = optics.propagate(wave, distance_m=thickness[0] / 2, **LIGHT)
        left = optics.multislice(entered, delta, beta, between_mid_planes=True, **optics_of)
        return optics.propagate(left, distance_m=thickness[-1] / 2, **LIGHT)

    plain = wave_and_gradients(lambda *parts: chain(*parts, thickness, windows), parts)
    assert worst(wave_and_gradients(between, parts), plain) < 1e-13
    fixed, spacing = [part.detach() for part in parts], torch.tensor(thickness, dtype=torch.float64, requires_grad=True)
    bare = {"between_mid_planes": True, **optics_of}
    assert torch.autograd.gradcheck(
        lambda moved: optics.multislice(*fixed, **{**bare, "slice_thickness_m": moved}), [spacing], fast_mode=True
    )


@every_way
@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
@pytest.mark.parametrize("kind", OBJECTS)
def test_gradient_in_the_spacing_of_slices_equals_differences(way, kernel, kind):
    shape, windows = OBJECTS[kind]
    parts = [part.detach() for part in inputs(shape)]
    thickness = torch.tensor(THICKNESS_M, dtype=torch.float64, requires_grad=True)
    optics_of = {"windows": windows, "gradient": way, "kernel": kernel, **LIGHT}
    assert torch.autograd.gradcheck(
        lambda spacing: optics.multislice(*parts, slice_thickness_m=spacing, **optics_of), [thickness], fast_mode=True
    )


@pytest.mark.parametrize("name", optics.PROPAGATIONS)
def test_one_thickness_for_all_slices_is_differentiated_as_their_sum(name):
    parts = [part.detach() for part in inputs((PLANES, *SHAPE))]
    thickness = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    through = optics.PROPAGATIONS[name]
    assert torch.autograd.gradcheck(
        lambda each: through(*parts, slice_thickness_m=each, **LIGHT), [thickness], fast_mode=True
    )


@pytest.mark.parametrize("name", optics.PROPAGATIONS)
def test_a_graph_that_is_kept_gives_the_same_gradient_again(name):
    parts = inputs((PLANES, *SHAPE))
    energy = optics.PROPAGATIONS[name](*parts, slice_thickness_m=2.0, **LIGHT).abs().square().sum()
    first, second = (torch.autograd.grad(energy, parts, retain_graph=True) for _ in range(2))
    assert worst(first, second) == 0


def way_of(beta=0.01, **options):
    parts = inputs((PLANES, *SHAPE), torch.complex64, beta)
    return optics.multislice(*parts, slice_thickness_m=2.0, **{**LIGHT, **options}).grad_fn.method


def test_waves_are_stored_where_memory_allows_and_recomputed_elsewhere(monkeypatch):
    stored = 8 * PLANES * (VIEWS + 1) * math.prod(SHAPE)
    for available, way in ((4 * stored + 4, "stored"), (4 * stored, "recomputed")):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=available: SimpleNamespace(available=free))
        assert way_of() == way


@pytest.mark.parametrize(
    "options",
    [{"beta": 0.2}, {"pixel_size_m": 0.4}, {"absorber": torch.ones(SHAPE)}],
    ids=lambda option: next(iter(option)),
)
def test_checkpoints_where_waves_cannot_be_undone(options):
    assert way_of(gradient="recomputed") == "recomputed"
    assert way_of(gradient="recomputed", **options) == "checkpointed"


def test_gradient_through_an_opaque_object_stays_exact():
    parts = inputs((PLANES, *SHAPE), torch.complex64, beta=0.3)
    optics_of = {"slice_thickness_m": THICKNESS_M, **LIGHT}
    ours = wave_and_gradients(lambda *parts: optics.multislice(*parts, gradient="recomputed", **optics_of), parts)
    stored = wave_and_gradients(lambda *parts: optics.multislice(*parts, gradient="stored", **optics_of), parts)
    assert worst(ours, stored) < 1e-5


@pytest.mark.parametrize(
    ("way", "low", "high"),
    [
        ("recomputed", -8, 2),
        pytest.param("checkpointed", 10, 50, marks=pytest.mark.matrix),
        pytest.param("stored", 240, 260, marks=pytest.mark.matrix),
    ],
)
def test_memory_of_recomputing_does_not_grow_with_the_number_of_slices(way, low, high):
    script = Path(__file__).with_name("peak_memory_of_gradient.py")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MALLOC_TRIM_THRESHOLD_": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
    }
    command = [sys.executable, str(script), way]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=True)
    assert low < float(done.stdout) < high


@pytest.mark.parametrize(
    ("thickness", "words"),
    [([1.0, 2.0], "one thickness"), ([1.0] * 6 + [0.0], "larger than zero"), (-1.0, "larger than zero")],
)
def test_thickness_that_does_not_fit_the_slices_is_refused(thickness, words):
    with pytest.raises(ScanError, match=words):
        optics.multislice(*inputs((PLANES, *SHAPE)), slice_thickness_m=thickness, **LIGHT)


@pytest.mark.parametrize("windows", [[(0, 0), (7, 0), (0, 0)], [(0, 0), (0, -1), (0, 0)], [(0, 0), (0, 0)]])
@pytest.mark.parametrize("name", optics.PROPAGATIONS)
def test_windows_beyond_the_planes_are_refused(name, windows):
    with pytest.raises(ScanError, match="window"):
        optics.PROPAGATIONS[name](*inputs((PLANES, 16, 17)), slice_thickness_m=1.0, windows=windows, **LIGHT)


@pytest.mark.parametrize("name", optics.PROPAGATIONS)
def test_windows_of_every_propagation_are_the_object_cut_out(name):
    wave, delta, beta = inputs((PLANES, 16, 17))
    through = optics.PROPAGATIONS[name]
    together = through(wave, delta, beta, slice_thickness_m=2.0, windows=WINDOWS, **LIGHT)
    for view, (y, x) in enumerate(WINDOWS):
        cut = (slice(None), slice(y, y + SHAPE[0]), slice(x, x + SHAPE[1]))
        alone = through(wave[view : view + 1], delta[cut], beta[cut], slice_thickness_m=2.0, **LIGHT)
        assert worst([together[view]], alone) < 1e-13


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def kinds_of(dtype):
    wave = optics.multislice(*inputs((PLANES, *SHAPE), dtype), slice_thickness_m=2.0, gradient="stored", **LIGHT)
    return {type(part) for part in wave.grad_fn.slices.values()}


@pytest.mark.parametrize("number", [1, 2])
def test_single_precision_is_fused_in_any_number_of_threads(number):
    with threads(number):
        assert kinds_of(torch.complex64) == {FusedSlice}
        assert kinds_of(torch.complex128) == {EagerSlice}


def eager_slices(windows, wave, delta, beta):
    return partial(EagerSlice, origins=EagerSlice.window_origins(windows, wave, delta))


@every_way
@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("kind", OBJECTS)
def test_fused_slices_equal_eager_ones(monkeypatch, way, kind, number):
    shape, windows = OBJECTS[kind]
    parts = inputs(shape, torch.complex64)
    mask = None if way == "recomputed" else optics.absorbing_margin(SHAPE, 3, steps=PLANES).float()
    optics_of = {"slice_thickness_m": THICKNESS_M, "windows": windows, "gradient": way, "absorber": mask, **LIGHT}
    # Two groups, of two views and of one view; several threads share the few pixels of these waves.
    monkeypatch.setattr(split_step, "_views_at_once", lambda wave, largest: 2)
    monkeypatch.setattr(threaded_loops, "_LEAST_PIXELS", 16)
    with threads(number):
        compiled_ones = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    monkeypatch.setattr(split_step, "_slice_factory", eager_slices)
    eager = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    assert worst(compiled_ones, eager) < 1e-6


@every_way
@pytest.mark.parametrize("number", [1, 3])
def test_fused_slices_of_own_objects_equal_eager_ones_beyond_what_is_made_at_once(monkeypatch, way, number):
    shape = (2, VIEWS, 31, 37)
    wave = random(*shape[1:], seed=1, dtype=torch.complex64).requires_grad_()
    parts, optics_of = [wave, *inputs(shape, torch.complex64)[1:]], {"slice_thickness_m": 2.0, "gradient": way, **LIGHT}
    assert wave.numel() > 6 * fused_slices.MADE_AT_ONCE
    monkeypatch.setattr(threaded_loops, "_LEAST_PIXELS", 16)
    with threads(number):
        in_parts = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    monkeypatch.setattr(split_step, "_slice_factory", eager_slices)
    eager = wave_and_gradients(lambda *parts: optics.multislice(*parts, **optics_of), parts)
    assert worst(in_parts, eager) < 1e-6


def fused_transmission(delta, beta):
    """T of a slice with kΔz = 1."""
    delta, beta = (torch.as_tensor(part, dtype=torch.float32)[None, None] for part in (delta, beta))
    wave = torch.ones(delta.shape, dtype=torch.complex64)
    made = FusedSlice(delta, beta, 1.0, FusedSlice.window_origins(None, wave, delta[None]))
    return made.transmit(wave, slice(0, 1), torch.empty_like(wave))[0, 0]


@pytest.mark.parametrize("largest", [1.0, 1e3, 1e4])
def test_fused_transmission_is_exact_to_rounding(largest):
    phase, depth = torch.linspace(-largest, largest, 100_001), torch.linspace(-80, 80, 100_001)
    found, exact = fused_transmission(phase, torch.zeros_like(phase)), torch.exp(-1j * phase.double())
    assert float((found - exact).abs().max()) < 1.2e-7
    found, exact = fused_transmission(torch.zeros_like(depth), depth), torch.exp(-depth.double())
    assert float((found / exact - 1).abs().max()) < 1.2e-7


def test_fused_transmission_keeps_what_is_not_a_number():
    found = fused_transmission([math.nan, 0.0, math.inf, 0.0], [0.0, math.nan, 0.0, math.inf])
    assert found.isnan().tolist() == [True, True, True, False]
    assert abs(found[3]) < 1e-37


def test_kernels_are_compiled_where_nothing_can_be_written():
    found = {}
    exec("def twice(x):\n    return 2 * x", found)  # without a file beside which compiled code could lie
    assert compiled("float32(float32)")(found["twice"])(1.5) == 3
