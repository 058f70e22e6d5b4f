"""What a GPU forbids, and what makes the host wait for it, by the names of PyTorch's operators."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from emulated_device.log import DeviceError

_ALLOCATES = {"empty", "empty_strided", "new_empty", "new_empty_strided", "empty_like", "_unsafe_view", "detach"}
"""Operators that launch no kernel, beside those that return a view."""

_DATA_DEPENDENT = {
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
    "repeat_interleave",
}
"""Operators whose result, or its shape, the host has to know before it goes on."""

_SOLVERS = {"linalg_svd", "_linalg_svd", "_linalg_eigh", "_linalg_solve_ex", "linalg_lstsq", "linalg_inv_ex"}
"""Operators that the host waits for, because a solver says whether it converged."""

_INDEXES = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}
"""Operators that take indices from the processor, and upload them."""

_NO_SCALARS_OF_THE_HOST = {"mm", "bmm", "addmm", "baddbmm", "dot", "vdot", "mv", "cat", "index_add_", "index_copy_"}
"""Operators that refuse even a tensor of no dimension from the processor."""

_SUMS_OF_COMPLEX = {"allreduce_", "broadcast_", "reduce_"}
"""Collectives that NCCL's process group lets take complex numbers."""


@dataclass(frozen=True)
class Operator:
    """What is known of an overload of an operator.

    Attributes:
        name: without namespace and overload.
        library: its namespace.
        writes: position and name of each argument that it writes to.
        launches: whether a GPU would launch a kernel for it.
        reshapes: whether it makes another view of the tensor that it is called on.
        returns: how many values it returns.
    """

    name: str
    library: str
    writes: tuple[tuple[int, str], ...]
    launches: bool
    reshapes: bool
    returns: int

    def written(self, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Any]:
        """Return the arguments that it writes to."""
        return [args[at] if at < len(args) else kwargs[name] for at, name in self.writes]


@cache
def operator(overload: Any) -> Operator:
    """Return what is known of an overload."""
    schema = overload._schema  # noqa: SLF001
    library, _, name = schema.name.partition("::")
    writes = tuple(
        (at, argument.name)
        for at, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    view = not writes and any(each.alias_info is not None for each in schema.returns)
    reshapes = torch.Tag.inplace_view in overload.tags
    launches = not view and not reshapes and name not in _ALLOCATES
    return Operator(name, library, writes, launches, reshapes, len(schema.returns))


def check_mixture(found: Operator, args: Sequence[Any], host: list[Tensor]) -> None:
    """Refuse tensors of the processor among those of the device, but scalars and indices.

    Args:
        found: the operator.
        args: its arguments.
        host: their tensors of the processor.
    """
    indices = [id(index) for index in args[1]] if found.name in _INDEXES else []
    for tensor in host:
        if id(tensor) in indices:
            continue
        refuses = found.name in _NO_SCALARS_OF_THE_HOST or (found.writes and tensor is args[0])
        if tensor.ndim or refuses:
            raise DeviceError(
                f"{found.name}: a tensor {tuple(tensor.shape)} of {tensor.dtype} is on the processor, others are on "
                "the device"
            )


def what_waits(found: Operator, args: Sequence[Any]) -> str | None:
    """Return for what the host waits in an operator, None where it does not."""
    if found.name in _INDEXES:
        indices = [index for index in args[1] if index is not None]
        if any(index.device.type == "cpu" for index in indices):
            return f"{found.name} with an index of the processor"
        masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
        filled = found.name != "index" and len(indices) == 1 and args[2].numel() == 1
        return f"{found.name} with a mask" if masks and not filled else None
    if found.name in _DATA_DEPENDENT:
        return found.name
    return f"solver {found.name}" if found.name in _SOLVERS else None


def check_collective(found: Operator, tensors: list[Tensor]) -> None:
    """Refuse what NCCL refuses: memory of the host, gaps, complex numbers but in sums."""
    for tensor in tensors:
        shape = f"{found.name} of {tuple(tensor.shape)}"
        if tensor.device.type == "cpu" and tensor.numel():
            raise DeviceError(f"{shape}: it is on the processor")
        if tensor.is_complex() and found.name not in _SUMS_OF_COMPLEX:
            raise DeviceError(f"{shape}: it is complex")
        if not tensor.is_contiguous():
            raise DeviceError(f"{shape}: it is not contiguous, its strides are {tensor.stride()}")
