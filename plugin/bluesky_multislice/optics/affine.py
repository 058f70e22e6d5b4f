"""Images magnified, turned and cut in two passes of lines in Fourier space, exact for periodic band-limited images.

A line is read at points of any pitch by the sum of its own Fourier series; what shears it is a phase of each line.
Source: Catmull & Smith, Comput. Graph. 14, 279 (1980), for the two passes.
"""

import torch
from torch import Tensor


def affine(image: Tensor, shape: tuple[int, int], matrix: Tensor) -> Tensor:
    """Return images on another grid of points; middles coincide.

    The point (y, x) from the middle of the result, in its pixels, is the point matrix·(y, x) from the middle of the
    image, in pixels of the image; beyond its edge the image begins again.

    Args:
        image: real (..., y, x).
        shape: pixels (y, x) of the result.
        matrix: (2, 2), near a multiple of the identity; differentiable.
    """
    matrix = matrix.to(device=image.device, dtype=torch.float64)
    ny, (rows, columns) = image.shape[-2], shape
    down, leaning = matrix[1, 1] - matrix[1, 0] * matrix[0, 1] / matrix[0, 0], matrix[1, 0] / matrix[0, 0]
    along = _read_lines(image, down * _from_middle(columns, image.device), leaning * _from_middle(ny, image.device))
    upright = _read_lines(
        along.mT, matrix[0, 0] * _from_middle(rows, image.device), matrix[0, 1] * _from_middle(columns, image.device)
    )
    return upright.mT


def _read_lines(lines: Tensor, points: Tensor, shifts: Tensor) -> Tensor:
    """Return lines (..., line, point) read at points (point,) and a shift of each line (line,), from their middle."""
    n = lines.shape[-1]
    frequency = torch.fft.rfftfreq(n, dtype=torch.float64, device=lines.device)
    weight = torch.full_like(frequency, 2 / n)
    weight[:1].fill_(1 / n)
    if n % 2 == 0:
        weight[-1:].fill_(1 / n)
    dtype = lines.dtype.to_complex()
    lean = torch.exp(2j * torch.pi * frequency * (shifts[:, None] + (n - 1) / 2)) * weight
    series = torch.exp(2j * torch.pi * frequency[:, None] * points)
    return (torch.fft.rfft(lines) * lean.to(dtype) @ series.to(dtype)).real


def _from_middle(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device=device) - (n - 1) / 2
