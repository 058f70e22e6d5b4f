"""Thin-sample retrievals recover the phase of a sample from what near-field propagation makes of it."""

import math

import pytest
import torch
from small_scan import relative_error

from bluesky_multislice import optics
from bluesky_multislice.reconstruction.start import contrast_transfer_phase, paganin_phase

N, PIXEL_M, WAVELENGTH_M = 64, (1e-9, 1e-9), 0.5e-9
DISTANCES_M = (20e-9, 35e-9, 60e-9)


def phase(strength, width):
    """The phase (y, x) of two blobs, far from the border."""
    at = torch.arange(N, dtype=torch.float64)
    near, far = (torch.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / (2 * width**2)) for y, x in ((28, 38), (36, 24)))
    return strength * (near + 0.5 * far)


def holograms(phase, ratio, distances_m):
    """Intensities (distance, y, x) behind a sample of this phase."""
    wave = torch.exp(-(1j + ratio) * phase)
    ways = [
        optics.propagate(wave, distance_m=way, wavelength_m=WAVELENGTH_M, pixel_size_m=PIXEL_M, kernel="fresnel")
        for way in distances_m
    ]
    return torch.stack([way.abs().square() for way in ways]).float()


def by_contrast_transfer(frames, distances_m, ratio):
    return contrast_transfer_phase(
        frames, distances_m=distances_m, wavelength_m=WAVELENGTH_M, pixel_m=PIXEL_M, beta_over_delta=ratio
    )


def by_paganin(frames, ratio):
    return paganin_phase(
        frames, distance_m=DISTANCES_M[0], wavelength_m=WAVELENGTH_M, pixel_m=PIXEL_M, beta_over_delta=ratio
    )


def test_contrast_transfer_recovers_a_weak_phase():
    truth = phase(0.05, 3.0)
    found = by_contrast_transfer(holograms(truth, 0.2, DISTANCES_M), DISTANCES_M, 0.2)
    assert relative_error(found, truth) < 0.1  # 0.06 was measured


def test_several_distances_show_more_than_one():
    truth = phase(0.05, 1.5)
    frames = holograms(truth, 0.05, DISTANCES_M)
    several = relative_error(by_contrast_transfer(frames, DISTANCES_M, 0.05), truth)
    one = relative_error(by_contrast_transfer(frames[2:], DISTANCES_M[2:], 0.05), truth)
    assert several < 0.8 * one


def test_a_wrong_distance_is_worse():
    truth = phase(0.05, 1.5)
    frames = holograms(truth, 0.05, DISTANCES_M)
    right, wrong = (by_contrast_transfer(frames, [part * z for z in DISTANCES_M], 0.05) for part in (1, 1.5))
    assert relative_error(right, truth) < 0.7 * relative_error(wrong, truth)


def test_paganin_recovers_a_strongly_absorbing_sample_of_large_details():
    truth, ratio = phase(2.0, 7.0), 0.5
    found = by_paganin(holograms(truth, ratio, DISTANCES_M[:1]), ratio)
    assert relative_error(found, truth) < 0.05  # 0.02 was measured


def test_both_agree_where_both_hold():
    truth, ratio = phase(0.02, 6.0), 1.0
    frames = holograms(truth, ratio, DISTANCES_M[:1])
    assert relative_error(by_paganin(frames, ratio), by_contrast_transfer(frames, DISTANCES_M[:1], ratio)) < 0.05


@pytest.mark.parametrize("dark", [0.0, 1e-9])
def test_dark_pixels_stay_finite(dark):
    frames = holograms(phase(0.05, 3.0), 0.2, DISTANCES_M)
    frames[:, 10, 10] = dark
    assert math.isfinite(float(by_contrast_transfer(frames, DISTANCES_M, 0.2).sum()))
    assert math.isfinite(float(by_paganin(frames[:1], 1e-3).sum()))
