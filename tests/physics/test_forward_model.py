"""The forward model against the plain chain of optics functions, and its bookkeeping of views."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch

from bluesky_multislice import optics
from bluesky_multislice.choices import Kernel
from bluesky_multislice.measurement import Beam, Detector, ScanGeometry, VolumeGrid
from bluesky_multislice.models import Adjustments, ForwardModel, ModelOptions

WAVELENGTH_M, PIXEL_M, N, PLANES = 1.0, 2.0, 32, 6
LIGHT = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, PIXEL_M)}
DISTANCE_M = 40.0
models = pytest.mark.parametrize("propagation", optics.PROPAGATIONS)
regimes = pytest.mark.parametrize("regime", ["near_field", "far_field"])


def geometry(positions=((0.0, 0.0),), angles=None, regime="near_field", n=N):
    """A scan whose object pixel is PIXEL_M in either regime; positions in pixels (y, x)."""
    views = len(positions)
    pitch = PIXEL_M if regime == "near_field" else WAVELENGTH_M * DISTANCE_M / (n * PIXEL_M)
    return ScanGeometry(
        "ptychography",
        Beam(WAVELENGTH_M),
        Detector((n, n), (pitch, pitch), regime),
        np.full(views, DISTANCE_M),
        np.zeros(views) if angles is None else np.asarray(angles),
        np.asarray(positions, float) * PIXEL_M,
    )


def grid(n=N, planes=PLANES):
    return VolumeGrid((planes, n, n), (PIXEL_M, PIXEL_M, PIXEL_M))


def model_of(scan, volume_grid=None, *, propagation="multislice", slices=None, **options):
    volume_grid = volume_grid or grid()
    return ForwardModel(
        scan,
        volume_grid,
        ModelOptions(slices or volume_grid.shape[0], propagation, **options, precision=torch.float64),
    )


def blobs(shift=(0.0, 0.0), n=N, planes=PLANES):
    """Smooth δ and β (z, y, x) that vanish at the edges, moved by ``shift`` pixels (y, x)."""
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    z = torch.arange(planes, dtype=torch.float64)[:, None, None]
    y, x = at[:, None] - shift[0], at - shift[1]
    delta = 0.02 * torch.exp(-((y - 1 - 0.5 * z) ** 2 + (x + 2 - z) ** 2) / 14)
    return delta, 0.2 * delta * (1 + 0.1 * z)


def probe(modes=1, n=N):
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    round_spot = torch.exp(-(at[:, None] ** 2 + at**2) / 50) * torch.exp(0.02j * (at[:, None] ** 2 + 0.5 * at))
    return torch.stack([round_spot * torch.exp(0.3j * mode * at) / (mode + 1) for mode in range(modes)])


def by_hand(delta, beta, wave, propagation, regime, kernel="fresnel"):
    """Expected intensity of one view from the public optics functions."""
    thickness = PLANES * PIXEL_M
    entrance = optics.propagate(wave, distance_m=-thickness / 2, **LIGHT)
    exit_wave = optics.PROPAGATIONS[propagation](entrance, delta, beta, slice_thickness_m=PIXEL_M, **LIGHT)
    if regime == "far_field":
        return optics.far_field(exit_wave)[0]
    way = DISTANCE_M - thickness / 2
    return optics.propagate(exit_wave, distance_m=way, kernel=kernel, **LIGHT).abs().square()[0]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@models
@regimes
def test_a_view_on_the_axis_is_the_chain_of_optics(propagation, regime):
    delta, beta = blobs()
    seen = model_of(geometry(regime=regime), propagation=propagation)(delta, beta, probe(), [0])[0]
    assert relative(seen, by_hand(delta, beta, probe(), propagation, regime)) < 1e-12


def test_light_may_go_exactly_to_the_detector():
    by_kernel = {kernel: by_hand(*blobs(), probe(), "multislice", "near_field", kernel) for kernel in get_args(Kernel)}
    for kernel, expected in by_kernel.items():
        seen = model_of(geometry(regime="near_field"), way_to_detector=kernel)(*blobs(), probe(), [0])[0]
        assert relative(seen, expected) < 1e-12
    assert relative(*by_kernel.values()) > 1e-6


@pytest.mark.parametrize("propagation", [name for name in optics.PROPAGATIONS if name != "tiled-multislice"])
@regimes
@pytest.mark.parametrize("position", [(3.0, -2.0), (0.0, 0.4), (-1.3, 2.75)])
def test_probe_at_a_position_is_the_sample_moved_the_other_way(propagation, regime, position):
    scan = geometry([position], regime=regime)
    seen = model_of(scan, propagation=propagation)(*blobs(), probe(), [0])[0]
    moved = by_hand(*blobs(shift=(-position[0], -position[1])), probe(), propagation, regime)
    assert relative(seen, moved) < 2e-3
    unmoved = by_hand(*blobs(), probe(), propagation, regime)
    assert relative(seen, unmoved) > 10 * relative(seen, moved)


@regimes
def test_probe_modes_add_as_intensities(regime):
    model, modes = model_of(geometry(regime=regime)), probe(modes=3)
    together = model(*blobs(), modes, [0])
    assert relative(together, sum(model(*blobs(), mode[None], [0]) for mode in modes)) < 1e-12


@regimes
def test_variations_are_added_to_the_first_mode_of_their_views(regime):
    model, modes = model_of(geometry([(0.0, 0.0), (2.0, -3.0)], regime=regime)), probe(modes=3)
    weights = torch.tensor([[0.5, -0.2], [0.0, 0.3]], dtype=torch.float64)
    varied = Adjustments(variations=modes[1:], variation_of_view=weights)
    seen = model(*blobs(), modes[:2], [0, 1], varied)
    for view, (one, other) in enumerate(weights):
        own = torch.stack([modes[0] + one * modes[1] + other * modes[2], modes[1]])
        assert relative(seen[view : view + 1], model(*blobs(), own, [view])) < 1e-12


@regimes
def test_views_in_any_batch_equal_views_alone(regime):
    positions = [(0.0, 0.0), (2.0, -3.0), (-1.5, 0.5), (4.0, 4.0), (0.3, 1.0)]
    scan = geometry(positions, angles=[0.0, 0.4, 0.0, 0.4, -1.0], regime=regime)
    cube = grid(planes=N)
    model = model_of(scan, cube, slices=8)
    volume = blobs(planes=N)
    order = [3, 0, 4, 2, 1]
    together = model(*volume, probe(), order)
    for row, view in enumerate(order):
        assert relative(together[row], model(*volume, probe(), [view])[0]) < 1e-12


def test_turned_sample_is_the_rotated_volume():
    volume, cube = blobs(planes=N), grid(planes=N)
    turned = [optics.rotate(part, 0.7) for part in volume]
    seen = model_of(geometry(angles=[0.7]), cube)(*volume, probe(), [0])
    assert relative(seen, model_of(geometry(), cube)(*turned, probe(), [0])) < 1e-12


def test_slices_are_the_mean_of_their_planes():
    delta, beta = blobs()
    binned = [part.unflatten(0, (3, 2)).mean(1).repeat_interleave(2, 0) for part in (delta, beta)]
    model = model_of(geometry(), slices=3)
    assert relative(model(delta, beta, probe(), [0]), model(*binned, probe(), [0])) < 1e-12


@pytest.mark.parametrize("slices", [4, 5])
def test_slices_need_not_divide_the_planes(slices):
    delta, beta = blobs()
    planes, at, parts = optics.planes_of_slices(PLANES, slices), 0, []
    for number in planes:
        parts.append(torch.stack([part[at : at + number].mean(0) for part in (delta, beta)]))
        at += number
    entrance = optics.propagate(probe(), distance_m=-PLANES * PIXEL_M / 2, **LIGHT)
    thickness = [number * PIXEL_M for number in planes]
    wave = optics.multislice(entrance, *torch.stack(parts, 1), slice_thickness_m=thickness, **LIGHT)
    seen = model_of(geometry(regime="far_field"), slices=slices)(delta, beta, probe(), [0])
    assert relative(seen, optics.far_field(wave)) < 1e-12


@regimes
def test_a_detector_pixel_is_the_sum_of_its_parts(regime):
    scan, part = geometry(regime=regime), 2
    fine = scan.oversampled(part)
    pitch = fine.object_pixel_m[0]
    volume_grid = VolumeGrid((PLANES, N, N), (PIXEL_M, pitch, pitch))
    wave = probe(n=part * N)
    frames = model_of(fine, volume_grid)(*blobs(), wave, [0])
    binned = model_of(fine, volume_grid, oversampling=part)(*blobs(), wave, [0])
    assert binned.shape == (1, N, N)
    assert relative(binned, optics.bin_pixels(frames, (part, part))) < 1e-12


@regimes
def test_the_detectors_point_spread_blurs_what_it_would_see(regime):
    scan, sigma = geometry(regime=regime), 1.3
    sharp, blurred = (model_of(scan, point_spread_pixels=width)(*blobs(), probe(), [0]) for width in (0.0, sigma))
    assert relative(blurred, optics.blur(sharp, optics.point_spread_transfer((N, N), sigma))) < 1e-12


def test_the_point_spread_is_in_pixels_of_the_detector():
    fine, sigma, margin = geometry().oversampled(2), 1.3, 4
    volume_grid = VolumeGrid((PLANES, N, N), (PIXEL_M, *fine.object_pixel_m))
    sharp, blurred = (
        model_of(fine, volume_grid, oversampling=2, margin=margin, point_spread_pixels=width)(
            *blobs(), probe(n=2 * (N + margin)), [0]
        )
        for width in (0.0, sigma)
    )
    assert relative(blurred, optics.blur(sharp, optics.point_spread_transfer((N, N), sigma))) < 0.02
    assert relative(blurred, sharp) > 0.05


@pytest.mark.parametrize("propagation", [name for name in optics.PROPAGATIONS if name != "projection"])
def test_light_leaves_at_outgoing_edges(propagation):
    """A beam that runs out of the window sideways."""
    n, planes = 64, 400
    at = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    beam = torch.exp(-(at[:, None] ** 2 + (at - 20) ** 2) / 50 + 1.5j * at)[None]
    vacuum = torch.zeros(planes, n, n, dtype=torch.float64)
    entering = optics.propagate(beam, distance_m=-planes * PIXEL_M / 2, band_limit=True, **LIGHT).abs().square().sum()
    left = {}
    for edges in ("periodic", "outgoing"):
        scan = geometry(n=n, regime="far_field")
        model = model_of(scan, grid(n, planes), slices=100, propagation=propagation, edges=edges)
        left[edges] = float(model(vacuum, vacuum, beam, [0]).sum() / entering)
    assert left["periodic"] == pytest.approx(1, abs=1e-6)
    assert left["outgoing"] < 0.01


def test_light_that_would_come_around_on_the_way_to_the_detector_is_left_out():
    scan = replace(geometry(), distance_m=np.array([600.0]))
    delta, beta = blobs()
    entrance = optics.propagate(probe(), distance_m=-PLANES * PIXEL_M / 2, **LIGHT)
    wave = optics.multislice(entrance, delta, beta, slice_thickness_m=PIXEL_M, **LIGHT)
    way = {"distance_m": 600.0 - PLANES * PIXEL_M / 2, "kernel": "fresnel", **LIGHT}
    limited, whole = (optics.propagate(wave, band_limit=limit, **way).abs().square() for limit in (True, False))
    seen = model_of(scan)(delta, beta, probe(), [0])
    assert relative(seen, limited) < 1e-12
    assert relative(seen, whole) > 1e-3


def test_the_interpolation_is_that_of_the_turn():
    volume, cube, scan = blobs(planes=N), grid(planes=N), geometry(angles=[0.7])
    linear, fourier = (
        model_of(scan, cube, interpolation=kind)(*volume, probe(), [0]) for kind in ("linear", "fourier")
    )
    turned = [optics.rotate(part, 0.7, interpolation="fourier") for part in volume]
    assert relative(fourier, model_of(geometry(), cube)(*turned, probe(), [0])) < 1e-12
    assert relative(fourier, linear) > 1e-4


def test_a_margin_keeps_the_detector_in_the_middle_of_a_larger_window():
    wide, margin = N + 16, 8
    delta, beta = blobs(n=wide)
    whole = model_of(geometry(n=wide), grid(wide))(delta, beta, probe(n=wide), [0])
    inner = model_of(geometry(), grid(wide), margin=margin)(delta, beta, probe(n=wide), [0])
    assert relative(inner, whole[:, margin:-margin, margin:-margin]) < 1e-12


def test_a_window_beyond_the_volume_sees_vacuum():
    model = model_of(geometry([(0.0, 0.0), (100.0, 0.0)]))
    vacuum = torch.zeros(PLANES, N, N, dtype=torch.float64)
    assert relative(model(*blobs(), probe(), [1]), model(vacuum, vacuum, probe(), [0])) < 1e-12


def test_a_volume_off_the_axis_is_seen_from_positions_off_the_axis():
    centre = (0.0, 3 * PIXEL_M, -2 * PIXEL_M)
    aside = VolumeGrid((PLANES, N, N), (PIXEL_M, PIXEL_M, PIXEL_M), centre)
    seen = model_of(geometry([(3.0, -2.0)]), aside)(*blobs(), probe(), [0])
    assert relative(seen, model_of(geometry())(*blobs(), probe(), [0])) < 1e-12


@models
@regimes
def test_gradients_in_delta_beta_and_probe_equal_differences(propagation, regime):
    n, planes = 4, 2
    scan = geometry([(0.0, 0.0), (1.0, -0.4), (0.3, 1.0)], angles=[0.0, 0.5, 0.0], regime=regime, n=n)
    model = model_of(scan, grid(n, planes), propagation=propagation)
    generator = torch.Generator().manual_seed(1)
    delta, beta = (0.02 * torch.rand(planes, n, n, dtype=torch.float64, generator=generator) for _ in range(2))
    wave = torch.randn(2, n, n, dtype=torch.complex128, generator=generator)
    inputs = [tensor.requires_grad_() for tensor in (delta, beta, wave)]
    assert torch.autograd.gradcheck(lambda *unknowns: model(*unknowns, [0, 1, 2]), inputs, fast_mode=True)


def test_exposure_is_the_light_of_all_windows_that_a_voxel_lies_in():
    scan = geometry(positions=((0.0, 0.0), (3.0, -2.0), (0.0, 0.0)), angles=(0.0, 0.0, np.pi / 2))
    wide = VolumeGrid((N + 8, N + 8, N + 8), (PIXEL_M, PIXEL_M, PIXEL_M))
    model = model_of(scan, wide, slices=5)
    light = probe(2).abs().square().sum(0)
    straight = torch.zeros(N + 8, N + 8, dtype=torch.float64)
    straight[4:-4, 4:-4] += light
    straight[7:-1, 2:-6] += light
    torch.testing.assert_close(model.exposure(probe(2), [0, 1]), straight.expand(N + 8, -1, -1))
    aside = torch.zeros(N + 8, N + 8, dtype=torch.float64)
    aside[4:-4, 4:-4] = light
    turned = model.exposure(probe(2), [2])
    torch.testing.assert_close(turned, turned[:, :, :1].expand(-1, -1, N + 8), atol=1e-9, rtol=0)
    torch.testing.assert_close(turned[:, :, 0].T.flip(1), aside, atol=1e-9, rtol=0)
