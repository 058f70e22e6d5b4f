"""The window of the object that each view illuminates, cut out with an exact transpose."""

import torch
from torch import Tensor


class _Windows(torch.autograd.Function):
    """Slicing inside autograd would make a full-size gradient for every window; this adds each into one."""

    @staticmethod
    def forward(ctx, planes: Tensor, starts: list[tuple[int, int]], shape: tuple[int, int]) -> Tensor:
        ctx.starts, ctx.shape = starts, planes.shape
        windows = planes.new_empty((planes.shape[0], len(starts), *shape))
        for view, (y, x) in enumerate(starts):
            windows[:, view] = planes[:, y : y + shape[0], x : x + shape[1]]
        return windows

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        planes = gradient.new_zeros(ctx.shape)
        for view, (y, x) in enumerate(ctx.starts):
            planes[:, y : y + gradient.shape[-2], x : x + gradient.shape[-1]] += gradient[:, view]
        return planes, None, None


def cut_windows(planes: Tensor, starts: list[tuple[int, int]], shape: tuple[int, int]) -> Tensor:
    """Return windows (z, view, y, x) of planes (z, y, x).

    Args:
        planes: (z, y, x), real or complex.
        starts: first pixel (y, x) of each view's window, inside the planes.
        shape: pixels (y, x) of a window.
    """
    return _Windows.apply(planes, starts, shape)
