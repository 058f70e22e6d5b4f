"""Frames at several distances: refined quantities of each distance, blur by source and beam, several field sizes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from small_scan import VOXEL_M, ball, blank, hologram_geometry, rebuild, relative_error

from bluesky_multislice.errors import PlanError, ScanError
from bluesky_multislice.measurement import Beam, Frames, Scan, VolumeGrid
from bluesky_multislice.models import Adjustments, ForwardModel, ModelOptions
from bluesky_multislice.optics import PROPAGATIONS, blur, point_spread_transfer
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import simulate_frames

N, DISTANCES_M = 20, np.array([40e-9, 70e-9, 110e-9])
UNIT = {
    "distance_shift": VOXEL_M,
    "distance_magnification": 2 / N,
    "distance_rotation": 2 / N,
}
"""Adjustment that moves a frame, or its edge, by a pixel."""
ADJUSTMENT = {
    "distance_shift": "distance_shift_m",
    "distance_magnification": "distance_magnification",
    "distance_rotation": "distance_rotation_rad",
}
ERRORS = {
    "distance_shift": [[0.0, 0.0], [1.3, -0.8], [-1.7, 0.6]],
    "distance_magnification": [0.0, 0.4, -0.3],
    "distance_rotation": [0.0, -0.5, 0.4],
}


def geometry_of(angles=12, distances_m=DISTANCES_M, n=N):
    """All distances at every angle, in the parallel beam."""
    one, each = hologram_geometry(n, angles), len(distances_m)
    return replace(
        one,
        beam=Beam(1e-9),
        distance_m=np.tile(distances_m, angles),
        angle_rad=np.repeat(one.angle_rad, each),
        position_m=np.zeros((angles * each, 2)),
    )


def sample(n=N):
    """δ (z, y, x) of two balls."""
    return ball(n, radius=4.0) + ball(n, radius=2.0)[::-1, ::-1, ::-1]


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1], [2, 4, 1]])
def test_views_that_differ_in_distance_alone_go_through_the_sample_once(monkeypatch, order):
    position_m = np.repeat([[0, 0], [0, VOXEL_M]], [4, 5], axis=0)
    geometry = replace(geometry_of(angles=3), angle_rad=np.zeros(9), position_m=position_m)
    through, waves = PROPAGATIONS["multislice"], []

    def counted(wave, *rest, **options):
        waves.append(len(wave))
        return through(wave, *rest, **options)

    monkeypatch.setitem(PROPAGATIONS, "multislice", counted)
    grid = VolumeGrid((N, N, N), (VOXEL_M,) * 3)
    model = ForwardModel(geometry, grid, ModelOptions(4, margin=6, precision=torch.float64))
    delta = torch.as_tensor(sample(), dtype=torch.float64).requires_grad_()
    wave = torch.ones((1, *model.window), dtype=torch.complex128)
    weights = torch.rand((len(order), N, N), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    together = model(delta, None, wave, order)
    (gradient,) = torch.autograd.grad((weights * together).sum(), delta)
    assert waves == [len({view >= 4 for view in order})]
    alone = torch.cat([model(delta, None, wave, [view]) for view in order])
    (expected,) = torch.autograd.grad((weights * alone).sum(), delta)
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(gradient, expected)


def frames_of(geometry, adjustments=(), margin=6, delta=None, **options):
    delta = sample(geometry.detector.shape[0]) if delta is None else delta
    model = ForwardModel(
        geometry,
        VolumeGrid(delta.shape, (VOXEL_M,) * 3),
        ModelOptions(len(delta), margin=margin, precision=torch.float64, **options),
    )
    wave = torch.ones((1, *model.window), dtype=torch.complex128)
    volume = [torch.as_tensor(part).double() for part in (delta, 0.05 * delta)]
    with torch.no_grad():
        return model(*volume, wave, range(geometry.views), *adjustments).numpy()


def adjusted(name, errors):
    return (Adjustments(**{ADJUSTMENT[name]: torch.tensor(errors, dtype=torch.float64) * UNIT[name]}),)


def test_a_shift_moves_the_frames_of_its_distance():
    geometry = geometry_of(angles=1)
    there = frames_of(geometry, adjusted("distance_shift", [[0, 0], [2, -3], [0.5, 0]]), margin=0)
    frames = frames_of(geometry, margin=0)
    np.testing.assert_allclose(there[0], frames[0], atol=1e-12)
    np.testing.assert_allclose(there[1], np.roll(frames[1], (2, -3), (0, 1)), atol=1e-12)
    back = frames_of(geometry, adjusted("distance_shift", [[0, 0], [0, 0], [-0.5, 0]]), margin=0)
    np.testing.assert_allclose(there[2], np.roll(back[2], 1, 0), atol=1e-12)


@pytest.mark.parametrize("turn", [0.2, -0.1])
def test_frames_turn_from_x_towards_y(turn):
    """Frames of a thin sample with rotated spots equal the rotated frames of the original spots."""
    at = np.arange(32) - 15.5

    def thin(angle):
        spots = np.zeros((1, 32, 32))
        for x, y, width in ((5, -2, 2.5), (-3, 4, 2)):
            across = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
            spots[0] += 0.02 * np.exp(-((at - across[0]) ** 2 + (at[:, None] - across[1]) ** 2) / (2 * width**2))
        return spots

    geometry = geometry_of(angles=1, distances_m=DISTANCES_M[:2], n=32)
    adjustments = (Adjustments(distance_rotation_rad=torch.tensor([0.0, turn], dtype=torch.float64)),)
    found = frames_of(geometry, adjustments, margin=16, delta=thin(0))
    plain, expected = (frames_of(geometry, margin=16, delta=thin(angle)) for angle in (0, turn))
    np.testing.assert_allclose(found[0], plain[0], atol=1e-12)
    assert np.abs(found[1] - expected[1]).max() < 1e-3 * np.abs(expected[1] - 1).max()
    assert np.abs(found[1] - plain[1]).max() > 0.05 * np.abs(expected[1] - 1).max()


def test_a_magnified_frame_is_one_of_smaller_pixels():
    geometry = geometry_of(angles=1, distances_m=DISTANCES_M[:1], n=32)
    finer = replace(geometry, detector=replace(geometry.detector, pixel_size_m=(0.8 * VOXEL_M,) * 2))
    adjustments = (Adjustments(distance_magnification=torch.tensor([0.25], dtype=torch.float64)),)
    delta = sample(32)
    found = frames_of(geometry, adjustments, margin=8, delta=delta)[0]
    # Compares the finer pixels, symmetric about the centre, with the spectrum of the enclosing frame.
    wide = frames_of(replace(geometry, detector=replace(geometry.detector, shape=(48, 48))), margin=0, delta=delta)[0]
    at = 0.8 * (np.arange(32) - 15.5) + 23.5
    series = np.exp(2j * np.pi * np.outer(at, np.fft.fftfreq(48))) / 48
    expected = (series @ np.fft.fft2(wide) @ series.T).real
    assert finer.object_pixel_m == pytest.approx((0.8 * VOXEL_M,) * 2)
    assert np.abs(found - expected).max() < 2e-3 * np.abs(expected - 1).max()


@pytest.fixture(scope="module")
def aligned():
    return relative_error(
        rebuild(Scan(geometry_of(angles=8), Frames(frames_of(geometry_of(angles=8))))).delta, sample()
    )


@pytest.mark.parametrize(
    "name", [name if name == "distance_shift" else pytest.param(name, marks=pytest.mark.matrix) for name in ERRORS]
)
def test_what_distances_do_against_the_first_comes_back_with_the_volume(name, aligned):
    scan = Scan(geometry_of(angles=8), Frames(frames_of(geometry_of(angles=8), adjusted(name, ERRORS[name]))))
    found = rebuild(scan, refine={"quantities": (name,)})
    left = (found.differences[name].numpy() / UNIT[name] - ERRORS[name])[1:]
    assert not found.differences[name][0].any()
    assert np.sqrt(np.mean(left**2)) < 0.1
    assert relative_error(found.delta, sample()) < aligned + 0.02


def test_frames_that_were_moved_spoil_the_volume(aligned):
    moved = adjusted("distance_shift", ERRORS["distance_shift"])
    scan = Scan(geometry_of(angles=8), Frames(frames_of(geometry_of(angles=8), moved)))
    assert relative_error(rebuild(scan, epochs=15).delta, sample()) > aligned + 0.05


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("one", [geometry_of(distances_m=DISTANCES_M[:1])])
def test_one_distance_has_nothing_to_be_measured_against(name, one):
    with pytest.raises(PlanError, match=name):
        make_plan(Recipe(refine={"quantities": [name]}), blank(one))


@pytest.mark.parametrize("cone", [False, True])
def test_a_source_blurs_each_distance_by_its_own_spot(cone):
    """σ on the detector is the divergence times the distance, or the source size times z₂/z₁."""
    geometry = geometry_of(angles=1)
    if cone:
        focus_m, source_m = 200e-9, 2e-9
        geometry = replace(geometry, beam=Beam(1e-9, focus_m), distance_m=np.array([40e-9, 40e-9, 40e-9]))
        sharp, beam = geometry, replace(geometry.beam, source_size_m=source_m)
        pitch, sigma_m = geometry.magnification * geometry.object_pixel_m[0], source_m * geometry.distance_m / focus_m
        sharp = replace(geometry, detector=replace(geometry.detector, pixel_size_m=(pitch[0], pitch[0])))
    else:
        sharp, beam = geometry, replace(geometry.beam, divergence_rad=0.02)
        sigma_m = 0.02 * DISTANCES_M
    blurred = frames_of(replace(sharp, beam=beam), margin=0)
    for found, frame, sigma in zip(blurred, frames_of(sharp, margin=0), sigma_m, strict=True):
        spot = point_spread_transfer((N, N), sigma / sharp.detector.pixel_size_m[0])
        expected = blur(torch.as_tensor(frame)[None], spot)[0].numpy()
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert np.abs(found - frame).max() > 0.01 * np.abs(frame - 1).max()
    wide = gaussian_filter(frames_of(sharp, margin=0)[2], sigma_m[2] / sharp.detector.pixel_size_m[0], mode="wrap")
    assert np.abs(blurred[2] - wide).max() < 0.05 * np.abs(wide - 1).max()


def test_source_and_detector_blur_in_quadrature():
    geometry = geometry_of(angles=1, distances_m=DISTANCES_M[:1])
    divergent = replace(geometry, beam=replace(geometry.beam, divergence_rad=0.8 * VOXEL_M / DISTANCES_M[0]))
    together = frames_of(divergent, point_spread_pixels=0.6)
    np.testing.assert_allclose(together, frames_of(geometry, point_spread_pixels=1.0), atol=1e-12)


@pytest.mark.parametrize(
    "beam", [Beam(1e-9, 1e-6, divergence_rad=0.1), Beam(1e-9, source_size_m=1e-9), Beam(1e-9, divergence_rad=-1.0)]
)
def test_a_blur_belongs_to_its_beam(beam):
    with pytest.raises(ScanError, match="blurred by the source size"):
        replace(geometry_of(), beam=beam)


def test_frames_of_several_magnifications_share_the_finest_pixel():
    """The sample is nearer to the focus for every other view: these frames show a smaller field with a finer pitch."""
    one = geometry_of(angles=1, distances_m=DISTANCES_M[:2])
    focus_m, detector_m = np.array([100e-9, 140e-9]), 1000e-9
    cone = replace(
        one,
        beam=Beam(1e-9, tuple(focus_m.tolist())),
        distance_m=detector_m - focus_m,
        detector=replace(one.detector, pixel_size_m=(10e-9, 10e-9)),
    )
    assert cone.magnification == pytest.approx(detector_m / focus_m)
    assert cone.object_pixel_m == pytest.approx((1e-9, 1e-9))
    assert cone.field_shape == (28, 28)
    assert cone.select(np.array([1])).object_pixel_m == pytest.approx((1.4e-9, 1.4e-9))
    plan = make_plan(Recipe(depth_um=0.02, slices=20), blank(cone))
    assert plan.grid.shape == (20, 28, 28)
    with pytest.raises(PlanError, match="one magnification"):
        make_plan(Recipe(coarse_levels=1), blank(cone))
    delta = sample(28)[4:24]
    frames = list(simulate_frames(blank(cone), delta, 0 * delta, voxel_size_m=(VOXEL_M,) * 3))
    for view, coarser in enumerate((1.0, 1.4)):
        # A source so far away that its beam is parallel, of which the scaling theorem is as paraxial as the cone's.
        parallel = replace(
            one.select(np.array([0])),
            beam=Beam(1e-9, focus_distance_m=1.0),
            distance_m=cone.effective_distance_m[[view]],
            detector=replace(one.detector, shape=(28, 28)),
        )
        (wide,) = simulate_frames(blank(parallel), delta, 0 * delta, voxel_size_m=(VOXEL_M,) * 3)
        assert frames[view].shape == (20, 20)
        if coarser == 1:
            np.testing.assert_allclose(frames[view], wide[4:24, 4:24], atol=2e-3 * np.abs(wide - 1).max())
        else:
            # Every fifth pixel of the coarser frame lies on a pixel of the finer one, or between two.
            np.testing.assert_allclose(
                frames[view][7:13:5, 7:13:5], wide[10:18:7, 10:18:7], atol=5e-3 * np.abs(wide - 1).max()
            )


def soft(n, pitch_m):
    """δ (z, y, x) of two spots that every grid of this pitch holds."""
    at = (np.arange(n) - (n - 1) / 2) * pitch_m / VOXEL_M
    z, y, x = at[:, None, None], at[:, None], at
    first = np.exp(-((z - 1.5) ** 2 + (y + 1) ** 2 + (x - 2) ** 2) / 8)
    return 5e-3 * (first + 0.7 * np.exp(-((z + 2) ** 2 + (y - 1) ** 2 + (x + 1) ** 2) / 6))


def soft_frames(distance_m, pitch_m):
    """Frames (angle, y, x) of N pixels in the parallel beam."""
    geometry, delta = geometry_of(distances_m=[distance_m]), soft(N, pitch_m)
    geometry = replace(geometry, detector=replace(geometry.detector, pixel_size_m=(pitch_m, pitch_m)))
    return list(simulate_frames(blank(geometry), delta, 0.05 * delta, voxel_size_m=(pitch_m,) * 3))


def cone_scan(magnifications):
    """Two effective distances by a point source and one detector."""
    larger, effective_m = np.array(magnifications), DISTANCES_M[:2]
    frames = [soft_frames(d, VOXEL_M * larger.max() / m) for d, m in zip(effective_m, larger, strict=True)]
    parallel, distance_m = geometry_of(distances_m=effective_m), effective_m * larger
    cone = replace(
        parallel,
        beam=Beam(1e-9, tuple(np.tile(distance_m / (larger - 1), 12).tolist())),
        distance_m=np.tile(distance_m, 12),
        detector=replace(parallel.detector, pixel_size_m=(larger.max() * VOXEL_M,) * 2),
    )
    return Scan(cone, Frames(np.stack(frames, 1).reshape(-1, N, N))), parallel


def test_a_cone_beam_gives_the_volume_of_a_parallel_beam():
    scan, parallel = cone_scan((5.0, 5.0))
    scans = scan, replace(scan, geometry=parallel)
    volumes = [rebuild(each, epochs=3, way_to_detector="fresnel").delta for each in scans]
    assert relative_error(*volumes) < 1e-5


def test_frames_of_two_magnifications_give_one_volume():
    found = rebuild(cone_scan((5.0, 4.0))[0], epochs=10).delta
    assert found.shape == (26, 26, 26)
    assert relative_error(found[3:23, 3:23, 3:23], soft(N, VOXEL_M)) < 0.1  # 0.065
