"""The Fresnel scaling theorem, proved by a point source, a thin object and the diffraction integral itself.

Nothing of the direct calculation is in the package: the spherical wave exp(ikr²/2z₁) times the object, then the Fresnel
integral to the detector by quadrature. The object differs from vacuum in smooth blobs only, which the trapezoid rule
integrates to rounding.
"""

import numpy as np
import pytest
import torch

from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions

WAVELENGTH_M, FOCUS_M, THICKNESS_M = 1e-10, 0.05, 1e-7
K = 2 * np.pi / WAVELENGTH_M
N, FINE = 96, 1024
PIXEL_M = 100e-9
"""Effective pixel; a blob's σ is at least four of them."""


def positions(n, pitch):
    return (np.arange(n) - (n - 1) / 2) * pitch


def phase_and_absorption(y, x):
    """kΔz·δ and kΔz·β (y, x) of three blobs off the middle."""
    spots = [(6e-7, -4e-7, 5e-7, 0.9), (-9e-7, 7e-7, 4e-7, -0.5), (1e-7, 1e-6, 6e-7, 0.7)]
    phase = sum(c * np.exp(-((y[:, None] - a) ** 2 + (x - b) ** 2) / (2 * s**2)) for a, b, s, c in spots)
    return phase, 0.1 * phase**2


def hologram(distance_m, focus_m, pixel_m=PIXEL_M):
    """Intensity (y, x) at detector pixels M·x in units of the empty beam's, by the diffraction integral.

    Each axis has the kernel exp(ikx²/2z₁)·exp(ik(X − x)²/2z₂)/√(iλz₂); the empty beam is the spherical wave at the
    detector, exp(ikX²/2(z₁+z₂))·√(z₁/(z₁+z₂)) an axis.
    """
    magnification = (focus_m + distance_m) / focus_m
    fine = positions(FINE, 8e-6 / FINE)
    phase, absorption = phase_and_absorption(fine, fine)
    scattered = np.exp(-1j * phase - absorption) - 1
    detector = magnification * positions(N, pixel_m)
    to_detector = np.exp(1j * K * ((detector[:, None] - fine) ** 2 / distance_m + fine**2 / focus_m) / 2)
    to_detector *= (8e-6 / FINE) / np.sqrt(1j * WAVELENGTH_M * distance_m)
    empty = np.exp(1j * K * detector**2 / (2 * (focus_m + distance_m))) / np.sqrt(magnification)
    wave = np.outer(empty, empty) + to_detector @ scattered @ to_detector.T
    return np.abs(wave) ** 2 * magnification**2


def model_of(distance_m, *, focus_m, pixel_m, margin=80):
    """A single angle's near-field view whose effective pixel is PIXEL_M."""
    scan = ScanGeometry(
        "holography",
        Beam(WAVELENGTH_M, focus_m),
        Detector((N, N), (pixel_m, pixel_m), "near_field"),
        np.array([distance_m]),
        np.zeros(1),
        np.zeros((1, 2)),
    )
    assert scan.object_pixel_m == pytest.approx((PIXEL_M, PIXEL_M))
    grid = VolumeGrid((1, N, N), (THICKNESS_M, PIXEL_M, PIXEL_M))
    return ForwardModel(scan, grid, ModelOptions(1, "projection", margin=margin, precision=torch.float64))


def seen_by(model):
    phase, absorption = phase_and_absorption(positions(N, PIXEL_M), positions(N, PIXEL_M))
    delta, beta = (torch.as_tensor(part / (K * THICKNESS_M))[None] for part in (phase, absorption))
    return model(delta, beta, torch.ones(1, *model.window, dtype=torch.complex128), [0])[0].numpy()


def distance(found, expected):
    """Error relative to the contrast of the hologram."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected - 1)


@pytest.mark.parametrize("distance_m", [0.002, 0.01, 0.05, 0.45])
def test_a_point_source_gives_the_hologram_of_a_parallel_beam_at_the_effective_distance(distance_m):
    """Magnifications from 1.04 to 10. They agree to 3e-6 of the contrast, what sampling the blobs costs."""
    exact = hologram(distance_m, FOCUS_M)
    assert np.abs(exact - 1).max() > 0.1
    magnification = (FOCUS_M + distance_m) / FOCUS_M
    model = model_of(distance_m, focus_m=FOCUS_M, pixel_m=PIXEL_M * magnification)
    assert distance(seen_by(model), exact) < 5e-6


def test_without_the_theorem_the_hologram_is_another():
    exact = hologram(0.05, FOCUS_M)
    assert distance(seen_by(model_of(0.05, focus_m=None, pixel_m=PIXEL_M)), exact) > 0.3


def test_a_focus_far_away_is_a_parallel_beam():
    far = seen_by(model_of(0.01, focus_m=1e6, pixel_m=PIXEL_M))
    assert distance(far, hologram(0.01, 1e6)) < 5e-6
    assert distance(far, seen_by(model_of(0.01, focus_m=None, pixel_m=PIXEL_M))) < 1e-5


def test_views_of_several_magnifications_are_those_of_the_point_source():
    """A projection microscope moves the sample towards the focus; the detector stays where it is."""
    focus_m, length_m, pixel_m = np.array([0.05, 0.08, 0.11]), 0.5, 10 * PIXEL_M
    scan = ScanGeometry(
        "holography",
        Beam(WAVELENGTH_M, tuple(focus_m.tolist())),
        Detector((N, N), (pixel_m, pixel_m), "near_field"),
        length_m - focus_m,
        np.zeros(3),
        np.zeros((3, 2)),
    )
    assert scan.object_pixel_m == pytest.approx((PIXEL_M, PIXEL_M))
    n = scan.field_shape[0]
    grid = VolumeGrid((1, n, n), (THICKNESS_M, PIXEL_M, PIXEL_M))
    model = ForwardModel(scan, grid, ModelOptions(1, "projection", margin=80, precision=torch.float64))
    parts = phase_and_absorption(positions(n, PIXEL_M), positions(n, PIXEL_M))
    delta, beta = (torch.as_tensor(part / (K * THICKNESS_M))[None] for part in parts)
    frames = model(delta, beta, torch.ones(1, *model.window, dtype=torch.complex128), [0, 1, 2]).numpy()
    for frame, focus in zip(frames, focus_m, strict=True):
        exact = hologram(length_m - focus, focus, pixel_m * focus / length_m)
        assert distance(frame, exact) < 3e-5  # 1.6e-5
