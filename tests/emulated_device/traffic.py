"""Bytes that a kernel reads and writes, from the shapes of what it is given."""

from collections.abc import Sequence

from torch import Tensor

_GATHERS = {"index", "_unsafe_index", "index_select", "gather"}
_SCATTERS = {"index_put_", "_index_put_impl_", "index_add_", "index_copy_", "scatter_add_"}


def moved_bytes(name: str, given: Sequence[Tensor], results: Sequence[Tensor]) -> int:
    """Return the bytes that an operator moves.

    Args:
        name: of the operator.
        given: tensors among its arguments.
        results: what it returns, its own arguments among them where it writes to them.
    """
    if name in _GATHERS:
        # Of the source as much as comes out.
        return sum(map(size, given[1:])) + 2 * sum(map(size, results))
    if name in _SCATTERS:
        # Of the destination, read and written, as much as comes in.
        return sum(map(size, given[1:])) + 2 * max(map(size, given[1:]))
    return sum(map(size, given)) + sum(map(size, results))


def size(tensor: Tensor) -> int:
    """Return the bytes of a tensor; what overlaps or is repeated counts once."""
    if not tensor.numel():
        return 0
    lengths = list(zip(tensor.shape, tensor.stride(), strict=True))
    elements, span = 1, 1
    for length, stride in lengths:
        elements *= length if stride else 1
        span += (length - 1) * stride
    return min(elements, span) * tensor.element_size()
