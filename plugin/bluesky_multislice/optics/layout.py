"""How volumes (…, z, y, x) lie in memory: with y last, so that a turn about y reads and adds up runs of it.

Their axes keep their order; only strides differ. What is made like such a volume lies as it does.
"""

from torch import Tensor


def with_y_last(volume: Tensor) -> Tensor:
    """Return a tensor (…, y, x) whose y lies last in memory: itself where it does, else a copy."""
    return volume.mT.contiguous().mT


def has_y_last(volume: Tensor) -> bool:
    """Return whether y of a tensor (…, y, x) lies last in memory, without gaps."""
    return volume.mT.is_contiguous()


def as_it_lies(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a view whose axes stand in the order of memory, for what takes contiguous tensors only, or is slow else.

    Args:
        tensor: without gaps.
        like: a tensor of the same shape whose order is taken.
    """
    like = tensor if like is None else like
    return tensor.permute(sorted(range(like.ndim), key=lambda axis: -like.stride(axis)))
