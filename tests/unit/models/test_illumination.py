"""The probe that a reconstruction starts from."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import VOXEL_M, hologram_geometry, pattern_scan

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import Beam, Detector
from bluesky_multislice.models import downsample, embed, technique_of, upsample
from bluesky_multislice.optics import propagate

PITCH = (VOXEL_M, VOXEL_M)


def initial_probe(geometry, mean_frame, **window):
    """What the scan's technique starts from."""
    return technique_of(geometry).first_probe(geometry, mean_frame, **window)


def random_wave(n=16):
    random = np.random.default_rng(0)
    return (random.normal(size=(1, n, n)) + 1j * random.normal(size=(1, n, n))).astype(np.complex64)


def test_embedding_puts_the_probe_in_the_middle_with_darkness_around():
    wave = random_wave(4)
    window = embed(wave, (8, 6)).numpy()
    np.testing.assert_array_equal(window[:, 2:6, 1:5], wave)
    assert np.linalg.norm(window) == pytest.approx(np.linalg.norm(wave))


@pytest.mark.parametrize("probe", [np.zeros((1, 4, 4)), np.full((1, 4, 4), np.nan), np.ones((1, 9, 4))])
def test_a_probe_that_is_dark_not_finite_or_too_large_is_refused(probe):
    with pytest.raises(ScanError, match="probe"):
        embed(probe, (8, 8))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_coarser_probe_undoes_a_finer_one(factor):
    wave = random_wave(8)
    np.testing.assert_allclose(downsample(upsample(wave, factor), factor), wave, atol=1e-6)
    assert downsample(wave, 1).dtype == downsample(wave, 2).dtype == np.complex64


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_finer_probe_is_the_same_wave_of_the_same_energy(factor):
    def wave(n):
        y, x = (np.arange(n) - (n - 1) / 2) * (16 / n), (np.arange(n) - (n - 1) / 2)[:, None] * (16 / n)
        return np.exp(-((x - 0.7) ** 2) / 6 - (y + 1.2) ** 2 / 5 + 0.3j * x)[None] * (16 / n)

    finer = upsample(wave(16), factor)
    np.testing.assert_allclose(finer, wave(16 * factor), atol=2e-4)
    assert np.linalg.norm(finer) == pytest.approx(np.linalg.norm(wave(16)))


def test_holography_starts_from_a_plane_wave_of_the_borders_level():
    mean_frame = np.full((16, 16), 4.0)
    mean_frame[4:12, 4:12] = 1.0
    mean_frame[0, :5] = 0.0  # masked
    probe = initial_probe(hologram_geometry(), mean_frame, window=(20, 20), pixel_size_m=PITCH)
    torch.testing.assert_close(probe, torch.full((1, 20, 20), 2.0, dtype=torch.complex64))


def test_holography_with_a_masked_border_takes_the_mean():
    mean_frame = np.zeros((16, 16))
    mean_frame[4:12, 4:12] = 4.0
    probe = initial_probe(hologram_geometry(), mean_frame, window=(16, 16), pixel_size_m=PITCH)
    torch.testing.assert_close(probe, torch.full((1, 16, 16), 1.0, dtype=torch.complex64))


def test_near_field_ptychography_brings_the_mean_amplitude_back_to_the_sample():
    geometry = replace(hologram_geometry(), technique="ptychography")
    frame = np.abs(random_wave()[0]) ** 2
    probe = initial_probe(geometry, frame, window=(16, 16), pixel_size_m=PITCH)
    again = propagate(
        probe, distance_m=30e-9, wavelength_m=geometry.beam.wavelength_m, pixel_size_m=PITCH, kernel="fresnel"
    )
    np.testing.assert_allclose(again[0], np.sqrt(frame), atol=1e-4)


def test_near_field_of_a_cone_beam_comes_back_over_the_effective_distance():
    geometry = hologram_geometry()
    cone = replace(geometry, technique="ptychography", beam=Beam(geometry.beam.wavelength_m, 30e-9))
    frame = np.abs(random_wave()[0]) ** 2
    half = replace(geometry, technique="ptychography", distance_m=np.full(geometry.views, 15e-9))
    probes = [initial_probe(each, frame, window=(16, 16), pixel_size_m=PITCH) for each in (cone, half)]
    torch.testing.assert_close(*probes)


@pytest.mark.parametrize("focus_distance_m", [None, 30e-9])
def test_far_field_starts_from_the_focus_brought_to_the_sample(focus_distance_m):
    scan, _ = pattern_scan(angles=1)
    geometry = replace(scan.geometry, beam=replace(scan.geometry.beam, focus_distance_m=focus_distance_m))
    vacuum_frame = np.abs(np.fft.fftshift(np.fft.fft2(scan.probe[0], norm="ortho"))) ** 2
    probe = initial_probe(geometry, vacuum_frame, window=(16, 16), pixel_size_m=PITCH)[0].numpy()
    assert np.linalg.norm(probe) == pytest.approx(np.linalg.norm(scan.probe), rel=1e-4)
    likeness = abs(np.vdot(probe, scan.probe[0])) / np.linalg.norm(probe) / np.linalg.norm(scan.probe)
    assert likeness > 0.99 if focus_distance_m else likeness < 0.5


def test_frames_that_are_not_square_keep_their_axes():
    geometry = hologram_geometry()
    oblong = replace(
        geometry, technique="ptychography", detector=Detector((8, 16), geometry.detector.pixel_size_m, "near_field")
    )
    assert initial_probe(oblong, np.ones((8, 16)), window=(12, 20), pixel_size_m=PITCH).shape == (1, 12, 20)
