"""The methods that move tensors are PyTorch's, to the last bit, and start without its compiler."""

import subprocess
import sys

import pytest
import torch

from bluesky_multislice.optics import with_y_last
from bluesky_multislice.optics.layout import has_y_last
from bluesky_multislice.solvers.optimisers import Adam, Nesterov, gradient_of, with_prefix, without_prefix

METHODS = {
    "nesterov": (
        lambda moved: Nesterov(moved, 0.9),
        lambda moved: torch.optim.SGD([moved], lr=0.1, momentum=0.9, nesterov=True, fused=True),
    ),
    "adam": (
        lambda moved: Adam(moved, 1e-3),
        lambda moved: torch.optim.Adam([moved], lr=0.1, betas=(0.9, 0.99), eps=1e-3, fused=True),
    ),
}
GRADIENTS = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))


def start():
    return torch.ones(4, 3, requires_grad=True)


def moved_by(method, moved, gradients):
    for gradient in gradients:
        moved.grad = gradient.clone()
        method.step(0.1)
    return moved.detach()


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_those_of_pytorchs_optimiser(name):
    ours, theirs = METHODS[name]
    moved, expected = start(), start()
    optimiser = theirs(expected)
    found = moved_by(ours(moved), moved, GRADIENTS)
    for gradient in GRADIENTS:
        expected.grad = gradient.clone()
        optimiser.step()
    assert torch.equal(found, expected.detach())
    assert not gradient_of(moved).any()


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_the_same_however_a_tensor_lies_in_memory(name):
    ours, _ = METHODS[name]
    contiguous, moved = start(), with_y_last(start().detach()).requires_grad_()
    method = ours(moved)
    expected = moved_by(ours(contiguous), contiguous, GRADIENTS)
    assert torch.equal(moved_by(method, moved, [with_y_last(gradient) for gradient in GRADIENTS]), expected)
    assert has_y_last(moved.detach())
    assert all(has_y_last(kept) for kept in method.state().values() if kept.ndim)


@pytest.mark.parametrize("name", METHODS)
def test_what_it_remembers_goes_on_under_a_name(name):
    ours, _ = METHODS[name]
    whole, moved = start(), start()
    expected = moved_by(ours(whole), whole, GRADIENTS)
    first = ours(moved)
    assert first.state() == {}
    moved_by(first, moved, GRADIENTS[:3])
    kept = {key: value.clone() for key, value in with_prefix("probe", first.state()).items()}
    second = ours(moved)
    second.load(without_prefix("probe", kept | {"other.step": torch.zeros(())}))
    assert torch.equal(moved_by(second, moved, GRADIENTS[3:]), expected)


@pytest.mark.parametrize("name", METHODS)
def test_it_goes_on_from_rest(name):
    ours, _ = METHODS[name]
    fresh, moved = start(), start()
    expected = moved_by(ours(fresh), fresh, GRADIENTS[3:])
    method = ours(moved)
    moved_by(method, moved, GRADIENTS[:3])
    method.reset()
    assert method.state() == {}
    with torch.no_grad():
        moved.fill_(1.0)
    assert torch.equal(moved_by(method, moved, GRADIENTS[3:]), expected)


def test_nothing_imports_pytorchs_compiler():
    program = (
        "import sys, torch\n"
        "from bluesky_multislice.solvers.optimisers.descent import Adam, Nesterov\n"
        "moved = torch.ones(3, requires_grad=True)\n"
        "Adam(moved, 1e-3).step(0.1), Nesterov(moved, 0.9).step(0.1)\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "False\n"
