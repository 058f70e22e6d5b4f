"""Affine transformation of images in two passes in Fourier space, exact for periodic band-limited images.

Each pass evaluates the Fourier series of every line at points of any pitch. A phase per line gives the shear.
Source: Catmull & Smith, Comput. Graph. 14, 279 (1980), for the two passes.
"""

import torch
from torch import Tensor


def affine(image: Tensor, shape: tuple[int, int], matrix: Tensor) -> Tensor:
    """Return images resampled on a transformed grid with the same centre.

    The point (y, x) of the result, in its pixels from its centre, is the point matrix·(y, x) of the image, in pixels
    from the image's centre. The image is periodic.

    Args:
        image: real (..., y, x).
        shape: pixels (y, x) of the result.
        matrix: (2, 2), close to a multiple of the identity; differentiable.
    """
    matrix = matrix.to(device=image.device, dtype=torch.float64)
    ny, (rows, columns) = image.shape[-2], shape
    scale, shear = matrix[1, 1] - matrix[1, 0] * matrix[0, 1] / matrix[0, 0], matrix[1, 0] / matrix[0, 0]
    along_x = _resample_lines(
        image, scale * _from_middle(columns, image.device), shear * _from_middle(ny, image.device)
    )
    along_y = _resample_lines(
        along_x.mT, matrix[0, 0] * _from_middle(rows, image.device), matrix[0, 1] * _from_middle(columns, image.device)
    )
    return along_y.mT


def _resample_lines(lines: Tensor, points: Tensor, shifts: Tensor) -> Tensor:
    """Return lines (..., line, point) at points (point,) plus one shift per line (line,), in pixels from the middle."""
    n = lines.shape[-1]
    frequency = torch.fft.rfftfreq(n, dtype=torch.float64, device=lines.device)
    weight = torch.full_like(frequency, 2 / n)
    weight[:1].fill_(1 / n)
    if n % 2 == 0:
        weight[-1:].fill_(1 / n)
    dtype = lines.dtype.to_complex()
    shift_phase = torch.exp(2j * torch.pi * frequency * (shifts[:, None] + (n - 1) / 2)) * weight
    series = torch.exp(2j * torch.pi * frequency[:, None] * points)
    return (torch.fft.rfft(lines) * shift_phase.to(dtype) @ series.to(dtype)).real


def _from_middle(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.float64, device=device) - (n - 1) / 2
