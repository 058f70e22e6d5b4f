"""Memory of tensors that nobody holds any more is used again, within bounds."""

import os
import subprocess
import sys

import pytest
import torch

from bluesky_multislice.optics import buffers

LIKE = torch.zeros(1, dtype=torch.complex64)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(buffers, "_kept", [])


def address(shape, like=LIKE):
    return buffers.empty(shape, like).data_ptr()


def test_memory_that_nobody_holds_is_used_again_in_any_shape_and_type():
    first = buffers.empty((4, 6), LIKE)
    assert (first.shape, first.dtype) == ((4, 6), torch.complex64)
    where = first.data_ptr()
    del first
    assert address((6, 4)) == where
    assert address((6, 8), torch.zeros(1)) == where


def test_memory_serves_tensors_a_fifth_smaller_and_the_nearest_does():
    large, small = (buffers.empty((size,), LIKE) for size in (100, 90))
    where = large.data_ptr(), small.data_ptr()
    del large, small
    assert [address((size,)) for size in (100, 95, 90, 80, 72)] == [*where[:1] * 2, *where[1:] * 3]
    assert address((71,)) not in where
    assert buffers.bytes_kept() == (100 + 90 + 71) * 8


@pytest.mark.parametrize(
    "part",
    [lambda tensor: tensor, lambda tensor: tensor[2:], lambda tensor: tensor.real, lambda tensor: tensor.numpy()],
)
def test_memory_of_which_a_part_is_held_stays_as_it_is(part):
    held = part(buffers.empty((4, 6), LIKE).fill_(1))
    for _ in range(3):
        buffers.empty((4, 6), LIKE).fill_(2)
    assert (held.real == 1).all()


def test_what_was_not_used_for_longest_goes_first(monkeypatch):
    monkeypatch.setattr(buffers, "MOST_BYTES", 9 * 8)
    older, younger, held = (buffers.empty((size,), LIKE) for size in (2, 3, 4))
    del older, younger
    buffers.empty((2,), LIKE)  # now the younger has lain unused for longer
    buffers.empty((1,), LIKE)
    assert buffers.bytes_kept() == (4 + 2 + 1) * 8
    assert held.shape == (4,)


def test_what_has_long_not_been_used_is_given_back(monkeypatch):
    monkeypatch.setattr(buffers, "_UNUSED_REQUESTS", 3)
    buffers.empty((2,), LIKE)
    for _ in range(3):
        buffers.empty((5,), LIKE)
    assert buffers.bytes_kept() == (2 + 5) * 8
    buffers.empty((5,), LIKE)
    assert buffers.bytes_kept() == 5 * 8


def test_no_more_than_a_bound_is_kept(monkeypatch):
    monkeypatch.setattr(buffers, "MOST_BYTES", 80)
    buffers.empty((8,), LIKE)
    held = buffers.empty((5,), LIKE)
    assert buffers.bytes_kept() == 5 * 8
    others = [buffers.empty((5,), LIKE) for _ in range(3)]
    assert buffers.bytes_kept() == 2 * 5 * 8
    assert len({tensor.data_ptr() for tensor in (held, *others)}) == 4


# Where PyTorch asks for huge pages, an array begins with a page.
ALIGNED = """
import bluesky_multislice.optics, torch
print(all(torch.empty(2**20 + each).data_ptr() % 4096 == 0 for each in range(5)))
"""


@pytest.mark.parametrize(("said", "aligned"), [(None, "True"), ("0", "False")])
def test_huge_pages_are_asked_for_large_arrays_unless_somebody_has_said_no(said, aligned):
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    environment |= {"THP_MEM_ALLOC_ENABLE": said} if said else {}
    done = subprocess.run([sys.executable, "-c", ALIGNED], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == aligned
