"""Adjustments: each equals the same change of the geometry, and is differentiable."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bluesky_multislice import optics
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import Adjustments, ForwardModel, ModelOptions

WAVELENGTH_M, PIXEL_M, DISTANCE_M = 1.0, 2.0, 40.0
POSITIONS = [(0.0, 0.0), (2.0, -3.0), (0.3, 1.0)]
ANGLES = [0.0, 0.6, 0.0]
regimes = pytest.mark.parametrize("regime", ["near_field", "far_field"])


def geometry(n, regime="near_field"):
    """Three views at two angles; the object pixel is PIXEL_M in either regime."""
    pitch = PIXEL_M if regime == "near_field" else WAVELENGTH_M * DISTANCE_M / (n * PIXEL_M)
    return ScanGeometry(
        "ptychography",
        Beam(WAVELENGTH_M),
        Detector((n, n), (pitch, pitch), regime),
        np.full(3, DISTANCE_M),
        np.array(ANGLES),
        np.array(POSITIONS) * PIXEL_M,
    )


def model_of(scan, planes=None, depth_m=PIXEL_M, **options):
    n = scan.detector.shape[0]
    grid = VolumeGrid((planes or n, n, n), (depth_m, PIXEL_M, PIXEL_M))
    return ForwardModel(scan, grid, ModelOptions(grid.shape[0], precision=torch.float64, **options))


def blobs(n, planes=None):
    """Smooth δ and β (z, y, x) that vanish at the edges."""
    z, y, x = torch.meshgrid(
        *(torch.arange(size, dtype=torch.float64) - (size - 1) / 2 for size in (planes or n, n, n)), indexing="ij"
    )
    delta = 0.01 * torch.exp(-((x - 2) ** 2 + (y + 1) ** 2 + (z - 1) ** 2) / 12)
    return delta, 0.2 * delta


def probe(n):
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    return (torch.exp(-(at[:, None] ** 2 + at**2) / 50) * torch.exp(0.02j * (at[:, None] ** 2 + 0.5 * at)))[None]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


def seen(scan, adjustments=None, n=24, planes=None, **options):
    arguments = () if adjustments is None else (adjustments,)
    return model_of(scan, planes, **options)(*blobs(n, planes), probe(n), [0, 1, 2], *arguments)


@regimes
def test_a_moved_position_is_that_of_another_scan(regime):
    scan, moves = geometry(24, regime), np.array([(1.7, -0.2), (0.0, 3.0), (-0.45, 0.9)]) * PIXEL_M
    moved = seen(replace(scan, position_m=scan.position_m + moves))
    assert relative(seen(scan, Adjustments(position_m=tensor(moves))), moved) < 1e-12
    assert relative(seen(scan), moved) > 0.01


@regimes
def test_an_axis_shift_moves_all_views_of_its_angle(regime):
    scan, shifts = geometry(24, regime), np.array([(0.0, 0.4), (-1.6, 0.0)]) * PIXEL_M
    moved = replace(scan, position_m=scan.position_m + shifts[[0, 1, 0]])
    assert relative(seen(scan, Adjustments(axis_shift_m=tensor(shifts))), seen(moved)) < 1e-12


@regimes
def test_windows_that_are_held_make_the_frames_of_those_that_follow(regime):
    """A shift of a view shifts its probe; the object vanishes before the window's edge."""
    scan, model = geometry(40, regime), model_of(geometry(40, regime))
    known, now = (Adjustments(position_m=tensor([(m, -m)] * 3) * PIXEL_M) for m in (0.7, 1.9))
    follows = model(*blobs(40), probe(40), [0, 1, 2], now)
    model.fix_windows(known)
    held = model(*blobs(40), probe(40), [0, 1, 2], now)
    assert relative(held, follows) < 1e-5
    assert not torch.equal(held, follows), "windows did not stay"
    assert relative(seen(scan, n=40), follows) > 0.01


def test_position_and_axis_shift_add():
    scan, move = geometry(24), torch.full((3, 2), 0.3 * PIXEL_M, dtype=torch.float64)
    together = seen(scan, Adjustments(position_m=move, axis_shift_m=move[:2]))
    assert relative(together, seen(scan, Adjustments(position_m=2 * move))) < 1e-12


def test_intensity_is_a_factor_of_each_angle():
    scan = geometry(24)
    factors = tensor([0.8, 1.3])
    expected = seen(scan) * factors[[0, 1, 0]][:, None, None]
    assert relative(seen(scan, Adjustments(intensity=factors)), expected) < 1e-12


def test_a_distance_is_that_of_another_scan():
    scan = replace(geometry(24), distance_m=np.array([40.0, 60.0, 40.0]))
    further = replace(scan, distance_m=np.array([41.0, 58.0, 41.0]))
    assert relative(seen(scan, Adjustments(distance_m=tensor([1.0, -2.0]))), seen(further)) < 1e-12


def test_an_angle_is_that_of_another_scan():
    scan = geometry(24)
    turned = replace(scan, angle_rad=scan.angle_rad + np.array([0.1, -0.2, 0.1]))
    assert relative(seen(scan, Adjustments(angle_rad=tensor([0.1, -0.2]))), seen(turned)) < 1e-12


def test_a_tilt_is_the_tilted_volume():
    n, scan, tilt = 24, geometry(24), tensor([0.1, -0.05])
    scan = replace(scan, angle_rad=np.full(3, 0.6))
    volume = [optics.rotate(part, 0.6, tilt_rad=tilt) for part in blobs(n)]
    expected = model_of(replace(scan, angle_rad=np.zeros(3)))(*volume, probe(n), [0, 1, 2])
    assert relative(seen(scan, Adjustments(tilt_rad=tilt)), expected) < 1e-12


@regimes
@pytest.mark.parametrize("more", [0.5, [0.1, 0.2, 0.3, 0.4, 0.5, 1.5]])
def test_thicker_slices_are_a_thicker_grid_about_the_same_middle(regime, more):
    n, planes, scan = 24, 6, replace(geometry(24, regime), angle_rad=np.zeros(3))
    thickness = (PIXEL_M + tensor(more)).expand(planes)
    whole, light = float(thickness.sum()), {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, PIXEL_M)}
    entrance = optics.propagate(probe(n), distance_m=-whole / 2, **light)
    wave = optics.multislice(entrance, *blobs(n, planes), slice_thickness_m=thickness, **light)
    if regime == "far_field":
        expected = optics.far_field(wave)
    else:
        way = optics.propagate(wave, distance_m=DISTANCE_M - whole / 2, kernel="fresnel", **light)
        expected = way.abs().square()
    found = seen(scan, Adjustments(slice_thickness_m=tensor(more)), planes=planes)
    assert relative(found[0], expected[0]) < 1e-12


@pytest.mark.parametrize("shape", [(), (24, 24)])
def test_a_background_is_added_to_every_frame(shape):
    scan, background = geometry(24), torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert relative(seen(scan, Adjustments(background=background)), seen(scan) + background) < 1e-12


def test_a_background_is_in_pixels_of_the_detector():
    fine, n = geometry(24).oversampled(2), 48
    grid = VolumeGrid((4, n, n), (PIXEL_M, *fine.object_pixel_m))
    model = ForwardModel(fine, grid, ModelOptions(4, oversampling=2, precision=torch.float64))
    background = torch.ones(24, 24, dtype=torch.float64)
    frames, more = (
        model(*blobs(n, 4), probe(n), [0], adjustments)
        for adjustments in (Adjustments(), Adjustments(background=background))
    )
    torch.testing.assert_close(more, frames + 1)


ADJUSTED = {
    "position_m": np.array([(0.3, 0.1), (-0.2, 2.3), (0.2, 0.4)]),
    "axis_shift_m": np.array([(0.3, 0.1), (-0.2, 0.3)]),
    "intensity": np.array([0.9, 1.2]),
    "distance_m": np.array([1.0]),
    "distance_shift_m": np.array([(0.3, -0.7)]),
    "distance_magnification": np.array([0.03]),
    "distance_rotation_rad": np.array([0.1]),
    "angle_rad": np.array([0.1, 0.05]),
    "tilt_rad": np.array([0.1, -0.05]),
    "slice_thickness_m": np.array(0.1),
    "background": np.array(0.1),
}


@pytest.mark.parametrize("name", ADJUSTED)
@pytest.mark.parametrize("propagation", ["multislice", "finite-difference", "projection"])
def test_gradients_equal_differences(name, propagation):
    n = 5
    model = model_of(geometry(n), propagation=propagation)
    generator = torch.Generator().manual_seed(1)
    delta, beta = (0.02 * torch.rand(n, n, n, dtype=torch.float64, generator=generator) for _ in range(2))
    wave = torch.randn(1, n, n, dtype=torch.complex128, generator=generator)

    def expect(value):
        return model(delta, beta, wave, [0, 1, 2], Adjustments(**{name: value}))

    assert torch.autograd.gradcheck(expect, tensor(ADJUSTED[name]).requires_grad_(), atol=1e-5)
