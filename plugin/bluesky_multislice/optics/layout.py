"""Memory layout of volumes (…, z, y, x): y is contiguous, because a rotation about y reads and sums rows along y.

The order of the axes stays; only the strides differ. Tensors made by ``empty_like`` have the same strides.
"""

from torch import Tensor


def with_y_last(volume: Tensor) -> Tensor:
    """Return a tensor (…, y, x) with y contiguous in memory; a copy only if it is not yet so."""
    return volume.mT.contiguous().mT


def has_y_last(volume: Tensor) -> bool:
    """Return whether y of a tensor (…, y, x) is contiguous in memory, without gaps."""
    return volume.mT.is_contiguous()


def in_memory_order(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a view with its axes in the order of memory, for operations that need or prefer contiguous tensors.

    Args:
        tensor: a tensor without gaps.
        like: a tensor of the same shape whose order is used instead.
    """
    like = tensor if like is None else like
    return tensor.permute(sorted(range(like.ndim), key=lambda axis: -like.stride(axis)))
