"""Random objects with uncorrelated planes: the most demanding objects at a given resolution."""

import math

import torch


def waves(planes, n, *, feature=3.0, seed=1):
    """Random (z, y, x) without frequencies above a period of two features."""
    noise = torch.randn(planes, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(n, dtype=torch.float64)
    band = frequency[:, None] ** 2 + frequency**2 < 1 / (2 * feature) ** 2
    return torch.fft.ifft2(torch.fft.fft2(noise) * band).real


def squares(planes, n, *, feature=3, seed=1):
    """Squares (z, y, x) of ``feature`` pixels, three of ten of them filled, moved at random from plane to plane."""
    generator = torch.Generator().manual_seed(seed)
    cells = -(-n // feature)
    filled = (torch.rand(planes, cells, cells, generator=generator) < 0.3).double()
    pattern = filled.repeat_interleave(feature, 1).repeat_interleave(feature, 2)[:, :n, :n]
    moves = torch.randint(0, feature, (planes, 2), generator=generator).tolist()
    return torch.stack([plane.roll(move, (0, 1)) for plane, move in zip(pattern, moves, strict=True)])


def delta_of_phase(pattern, radians, *, wavelength_m, length_m):
    """Scale a pattern (z, y, x) to the δ whose phase shift in projection varies by ``radians`` (rms)."""
    pattern = pattern - pattern.amin()
    rms = pattern.sum(0).std() * 2 * math.pi / wavelength_m * length_m / len(pattern)
    return pattern * (radians / rms)


OBJECTS = {"waves": waves, "squares": squares}
