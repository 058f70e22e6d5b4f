"""Captured functions, in a graph that does again what it was told, as there is no accelerator to record it."""

import functools

import pytest
import torch

from bluesky_multislice.optics import KernelChoice, graphs, multislice, use_kernels
from bluesky_multislice.optics.graphs import Replays, replayed
from bluesky_multislice.solvers import kernel_cases


class Again:
    """A graph that does a function again."""

    made = 0

    def __init__(self, device, before):
        Again.made += 1

    def capture(self, function):
        self._function = function
        function()

    def replay(self):
        self._function()


@pytest.fixture
def replays():
    Again.made = 0
    return Replays(Again)


def product(a, b):
    return (a * b).sum(0)


def called(replays, a, b, function=product, key="product"):
    a, b = a.clone().requires_grad_(), b.clone().requires_grad_()
    out = replays(key, function, a, b)
    return a, b, out


def test_waves_and_gradients_of_a_propagation_are_those_without_a_graph():
    pairs = list(kernel_cases.graphs(torch.device("cpu"), Again))
    assert len(pairs) == 20
    assert kernel_cases.largest_difference(pairs) == 0


def test_a_function_is_captured_when_its_shapes_come_again(replays):
    for number in range(5):
        called(replays, torch.ones(2, 3), torch.ones(2, 3))
        assert Again.made == (0 if number < 2 else 2)
    called(replays, torch.ones(2, 4), torch.ones(2, 4))
    assert Again.made == 2


def test_results_keep_their_values_when_others_are_replayed(replays):
    for _ in range(3):
        called(replays, torch.ones(2, 3), torch.ones(2, 3))
    a, b, first = called(replays, torch.full((2, 3), 2.0), torch.full((2, 3), 3.0))
    first.sum().backward()
    *_, second = called(replays, torch.ones(2, 3), torch.ones(2, 3))
    second.sum().backward()
    assert first.tolist() == [12.0] * 3
    assert second.tolist() == [2.0] * 3
    assert (a.grad == 3).all()
    assert (b.grad == 2).all()


def test_who_comes_before_the_gradient_computes_without_a_graph(replays):
    for _ in range(3):
        called(replays, torch.ones(2, 3), torch.ones(2, 3))
    a, _, first = called(replays, torch.full((2, 3), 2.0), torch.full((2, 3), 3.0))
    c, _, second = called(replays, torch.full((2, 3), 4.0), torch.full((2, 3), 5.0))
    second.sum().backward()
    first.sum().backward()
    assert (a.grad == 3).all()
    assert (c.grad == 5).all()


def test_a_result_whose_gradient_nobody_asks_for_gives_the_memory_back(replays):
    for _ in range(3):
        called(replays, torch.ones(2, 3), torch.ones(2, 3))
    waits = called(replays, torch.ones(2, 3), torch.ones(2, 3))
    assert [captured.is_free for captured in replays.kept] == [False]
    del waits
    assert [captured.is_free for captured in replays.kept] == [True]


def test_without_gradients_the_function_alone_is_replayed(replays):
    with torch.no_grad():
        results = [replays("product", product, torch.full((2, 3), n), torch.ones(2, 3)) for n in (1.0, 2.0, 3.0, 4.0)]
    assert [float(result[0]) for result in results] == [2.0, 4.0, 6.0, 8.0]
    assert Again.made == 1


def test_what_cannot_be_captured_is_computed_without(caplog):
    class Refuses(Again):
        def capture(self, function):
            raise RuntimeError("operation not permitted when stream is capturing")

    replays = Replays(Refuses)
    for _ in range(4):
        *_, out = called(replays, torch.ones(2, 3), torch.ones(2, 3))
        assert out.tolist() == [2.0] * 3
    assert caplog.text.count("not permitted") == 1


def test_the_key_tells_functions_apart(replays):
    for _ in range(4):
        called(replays, torch.ones(2, 3), torch.ones(2, 3))
        *_, other = called(replays, torch.ones(2, 3), torch.ones(2, 3), function=lambda a, b: a - b, key="difference")
    assert not other.any()
    assert len(replays.kept) == 2


def test_only_the_functions_used_last_are_kept(replays):
    for number in range(10):
        for _ in range(3):
            called(replays, torch.ones(2, 3), torch.ones(2, 3), key=number)
    assert len(replays.kept) == 4


@pytest.mark.parametrize("windows", [None, [(0, 1), (2, 0)]])
def test_propagations_that_come_again_are_replayed(replays, windows, monkeypatch):
    monkeypatch.setattr(graphs, "_replays", replays)
    propagate = functools.partial(
        multislice, wavelength_m=1e-9, pixel_size_m=1e-8, slice_thickness_m=1e-7, gradient="stored"
    )
    random, pairs = torch.Generator().manual_seed(1), []
    try:
        for shift in range(5):
            moved = windows and [(y, x + shift % 2) for y, x in windows]
            wave = torch.randn(2, 6, 6, dtype=torch.complex64, generator=random)
            planes = [1e-4 * torch.rand(3, 8, 8, generator=random) for _ in range(2)]
            planes = planes if windows else [part[:, :6, :6] for part in planes]
            run = functools.partial(propagate, windows=moved)
            results = []
            for part in ("graphs",), ():
                use_kernels(KernelChoice("fused", part))
                results.append(kernel_cases.propagated(run, (wave, *planes), wave))
            pairs += zip(*results, strict=True)
    finally:
        use_kernels(KernelChoice())
    assert kernel_cases.largest_difference(pairs) < 1e-6
    assert len(replays.kept) == 1


def test_nothing_is_captured_where_graphs_are_not_in_use():
    wave, delta = torch.ones(1, 4, 4, dtype=torch.complex64), torch.zeros(1, 4, 4)
    propagate = functools.partial(multislice, wavelength_m=1e-9, pixel_size_m=1e-8, slice_thickness_m=1e-8)
    for _ in range(4):
        assert torch.equal(replayed("key", propagate, wave, delta, delta), propagate(wave, delta, delta))
