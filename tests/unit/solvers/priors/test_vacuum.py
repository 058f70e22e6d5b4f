"""Vacuum against noise: the weight that the frames' noise implies."""

import pytest
import torch
from small_scan import VOXEL_M, hologram_geometry

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions
from bluesky_multislice.optics.conventions import wavenumber
from bluesky_multislice.solvers.fidelity import amplitude_misfit
from bluesky_multislice.solvers.priors import vacuum_noise_weight


def test_vacuum_is_held_against_one_sigma_of_the_frames_noise():
    scan, sigma, voxels = hologram_geometry(), 0.03, 16**3
    model = ForwardModel(scan, VolumeGrid((16, 16, 16), (VOXEL_M, VOXEL_M, VOXEL_M)), ModelOptions(4))
    amplitude = 1 + sigma * torch.randn(8, 16, 16, generator=torch.Generator().manual_seed(1))
    delta = torch.zeros(16, 16, 16, requires_grad=True)
    unit = 1 / (wavenumber(scan.beam.wavelength_m) * 16 * VOXEL_M)
    expected = model(delta * unit, torch.zeros(16, 16, 16), torch.ones(1, 16, 16, dtype=torch.complex64), range(8))
    amplitude_misfit(expected, amplitude, torch.ones(16, 16)).div(amplitude.numel()).backward()
    pull = vacuum_noise_weight(sigma**2, lateral_pixels=16**2, measured_pixels=amplitude.numel()) / (2 * voxels)
    inside = delta.grad[4:-4, 4:-4, 4:-4]
    assert float(inside.square().mean().sqrt()) == pytest.approx(pull, rel=0.3)
