"""Propagation without a sample against closed forms."""

import numpy as np
import pytest
import torch
from known_answers import centred, gaussian_beam, slit
from scipy import ndimage

from bluesky_multislice import optics

WAVELENGTH_M, PIXEL_M = 1e-10, 50e-9


def distance(field, reference):
    """Relative distance ‖a − b‖ / ‖b‖."""
    field, reference = np.asarray(field), np.asarray(reference)
    return np.linalg.norm(field - reference) / np.linalg.norm(reference)


def seen_by_a_coarse_detector(field):
    """Low pass: a sharp edge has no band limit, so only the part below Nyquist can agree."""
    return ndimage.gaussian_filter(np.asarray(field), 6.0)


def speckle(*shape, seed=3):
    return torch.randn(*shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
def test_there_and_back(kernel):
    wave = speckle(2, 48, 37)
    way = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, 2 * PIXEL_M), "kernel": kernel}
    there = optics.propagate(wave, distance_m=1e-3, **way)
    assert distance(there, wave) > 0.5
    assert distance(optics.propagate(there, distance_m=-1e-3, **way), wave) < 1e-12


def test_evanescent_waves_decay_either_way():
    wave = speckle(1, 32, 32)
    way = {"wavelength_m": 1.0, "pixel_size_m": (0.25, 0.25)}
    there = optics.propagate(wave, distance_m=1.0, **way)
    back = optics.propagate(there, distance_m=-1.0, **way)
    energies = [float(field.abs().square().sum()) for field in (wave, there, back)]
    assert energies[0] > energies[1] > energies[2] > 0.1 * energies[0]


def test_angular_spectrum_gives_a_tilted_plane_wave_its_exact_phase():
    n, wavelength = 64, 1.0
    sine = 8 * wavelength / n
    x = torch.arange(n, dtype=torch.float64)
    wave = torch.exp(2j * np.pi * sine * x)[None, None, :]
    after = optics.propagate(wave, distance_m=10.0, wavelength_m=wavelength, pixel_size_m=(1.0, 1.0))
    expected = wave * np.exp(2j * np.pi / wavelength * 10.0 * (np.sqrt(1 - sine**2) - 1))
    assert distance(after, expected) < 1e-12


def test_slit_against_fresnel_integrals():
    n, width = 8192, 1024
    x = centred(n, PIXEL_M)
    wave = torch.as_tensor((np.abs(x) < width * PIXEL_M / 2).astype(complex))[None, None]
    z = (width * PIXEL_M) ** 2 / (4 * WAVELENGTH_M * 10)
    after = optics.propagate(
        wave, distance_m=z, wavelength_m=WAVELENGTH_M, pixel_size_m=(PIXEL_M, PIXEL_M), kernel="fresnel"
    )
    expected = slit(x, width * PIXEL_M, z, WAVELENGTH_M)
    assert distance(seen_by_a_coarse_detector(after[0, 0]), seen_by_a_coarse_detector(expected)) < 1e-3


def test_square_aperture_against_fresnel_integrals():
    n, width_y, width_x = 1024, 256, 128
    x = centred(n, PIXEL_M)
    opening_y, opening_x = (np.abs(x) < width * PIXEL_M / 2 for width in (width_y, width_x))
    wave = torch.as_tensor(np.outer(opening_y, opening_x).astype(complex))[None]
    z = (width_x * PIXEL_M) ** 2 / (4 * WAVELENGTH_M * 2)
    after = optics.propagate(wave, distance_m=z, wavelength_m=WAVELENGTH_M, pixel_size_m=(PIXEL_M, PIXEL_M))
    expected = np.outer(*(slit(x, width * PIXEL_M, z, WAVELENGTH_M) for width in (width_y, width_x)))
    assert distance(seen_by_a_coarse_detector(after[0]), seen_by_a_coarse_detector(expected)) < 3e-3


@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
def test_talbot_grating_images_itself(kernel):
    period = 32
    grating = (torch.arange(256) % period < 10).to(torch.complex128)[None, None].repeat(1, 3, 1)
    talbot = 2 * (period * PIXEL_M) ** 2 / WAVELENGTH_M
    way = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, PIXEL_M), "kernel": kernel}
    # The angular spectrum goes beyond Fresnel by (λf)⁴ terms, which still are small here.
    assert distance(optics.propagate(grating, distance_m=talbot, **way), grating) < 2e-2
    shifted = optics.propagate(grating, distance_m=talbot / 2, **way)
    assert distance(shifted, grating.roll(period // 2, -1)) < 2e-2


@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
def test_round_gaussian_beam_spreads_by_the_abcd_law(kernel):
    n, waist = 192, 12 * PIXEL_M
    rayleigh = np.pi * waist**2 / WAVELENGTH_M
    x = centred(n, PIXEL_M)
    r = np.hypot(x[:, None], x)
    start = torch.as_tensor(gaussian_beam(r, waist, WAVELENGTH_M, ((1, 0), (0, 1)), 2))[None]
    light = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, PIXEL_M)}
    after = optics.propagate(start, distance_m=1.5 * rayleigh, kernel=kernel, **light)
    expected = gaussian_beam(r, waist, WAVELENGTH_M, ((1, 1.5 * rayleigh), (0, 1)), 2)
    assert distance(after[0], expected) < 1e-3
