"""Run by test_split_step: print the extra memory of 256 slices over 8 slices, in waves, without δ and β."""

import sys
from pathlib import Path

import torch

from bluesky_multislice import optics

VIEWS, N = 64, 64
LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8, "slice_thickness_m": 1e-6}


def peak(way, slices):
    """Highest resident memory so far in bytes, after a gradient through ``slices``."""
    wave = torch.ones(VIEWS, N, N, dtype=torch.complex64, requires_grad=True)
    delta, beta = (torch.full((slices, N, N), value, requires_grad=True) for value in (1e-6, 1e-8))
    optics.multislice(wave, delta, beta, gradient=way, **LIGHT).abs().square().sum().backward()
    # Not ru_maxrss, which includes that of the parent process.
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM")) * 1024


few, many = (peak(sys.argv[1], slices) for slices in (8, 256))
objects = 4 * 4 * (256 - 8) * N * N
print((many - few - objects) / (8 * VIEWS * N * N))
