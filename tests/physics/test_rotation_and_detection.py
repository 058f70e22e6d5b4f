"""Signs and origins of rotation, shift and detectors."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
from known_answers import centred
from scipy import sparse, special

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics import interpolation as interpolation_module
from bluesky_multislice.optics import taps


@pytest.mark.parametrize("n", [8, 9])
def test_quarter_turn_takes_z_to_x(n):
    """A point at +z is at +x after a rotation of +90°."""
    volume = torch.zeros(n, 3, n, dtype=torch.float64)
    volume[n - 2, 1, n // 2] = 1.0
    turned = optics.rotate(volume, np.pi / 2)
    z, _, x = np.unravel_index(int(turned.argmax()), turned.shape)
    assert x == n - 2
    assert z == n - 1 - n // 2
    assert float(turned.max()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("n", [6, 7])
def test_quarter_and_half_turns_are_exact_for_even_and_odd_sizes(n):
    volume = torch.rand(n, 2, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    quarter, half = optics.rotate(volume, np.pi / 2), optics.rotate(volume, np.pi)
    assert torch.allclose(half, volume.flip(0, 2), atol=1e-12)
    # lab (z, x) sees sample (z' = x, x' = −z)
    assert torch.allclose(quarter, volume.permute(2, 1, 0).flip(0), atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4, np.pi / 2, -2.0, 3.1])
@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("sizes", [(9, 5, 11, 9), (12, 4, 7, 5), (7, 3, 16, 1), (13, 2, 13, 4)])
def test_turns_slopes_and_transposes_without_matrices_are_those_of_matrices(monkeypatch, sizes, kernel, angle):
    nz, ny, nx, slices = sizes
    # Small enough for several batches of slices.
    monkeypatch.setattr(taps, "_AT_ONCE", 3 * nx * 16)
    volume = torch.randn(nz, ny, nx, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    theta = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    slice_of_plane = tuple(plane * slices // nz for plane in range(nz))
    turned = interpolation_module.rotate_in_planes(volume, theta, slice_of_plane, kernel)
    image = torch.randn(turned.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    back, along = torch.autograd.grad(turned, (volume, theta), image)
    for known in (angle, theta.detach()):
        by = taps.Rotation(nz, slices, nx, known, taps.KERNELS[kernel])
        gathered = taps.rotate_planes(volume, by)
        (gathered_back,) = torch.autograd.grad(gathered, volume, image)
        slope = taps.rotate_planes(volume, by._replace(slope=True))
        torch.testing.assert_close(gathered, turned, rtol=0, atol=1e-12)
        torch.testing.assert_close(gathered_back, back, rtol=0, atol=1e-12)
        torch.testing.assert_close((slope * image).sum(), along, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("angle", [0.35, -0.8, 2.0])
def test_blob_off_the_axis_lands_where_the_convention_says(angle):
    n_z, n_x, sigma, z0, x0 = 48, 64, 3.0, 8.0, 5.0
    z, x = centred(n_z, 1.0)[:, None], centred(n_x, 1.0)

    def blob(z0, x0):
        return np.exp(-((z - z0) ** 2 + (x - x0) ** 2) / (2 * sigma**2))

    turned = optics.rotate(torch.as_tensor(blob(z0, x0))[:, None], angle)[:, 0].numpy()
    # the sample point (x0, z0) = (x·cosθ − z·sinθ, x·sinθ + z·cosθ), solved for the lab point (x, z)
    lab_x, lab_z = x0 * np.cos(angle) + z0 * np.sin(angle), -x0 * np.sin(angle) + z0 * np.cos(angle)
    assert np.abs(turned - blob(lab_z, lab_x)).max() < 0.04


def test_outside_of_the_volume_is_vacuum():
    turned = optics.rotate(torch.ones(9, 1, 21, dtype=torch.float64), np.pi / 2)[:, 0]
    assert torch.allclose(turned[:, 6:15], torch.ones(9, 9, dtype=torch.float64))
    assert float(turned[:, :5].abs().max()) == 0
    assert float(turned[:, 16:].abs().max()) == 0


def test_single_layer_is_thin_from_the_side_too():
    turned = optics.rotate(torch.ones(1, 1, 9, dtype=torch.float64), np.pi / 2)[0, 0]
    assert turned[4] == pytest.approx(1.0)
    assert float(turned[:3].abs().max()) == 0
    assert float(turned[6:].abs().max()) == 0


TURNS = [{}, {"interpolation": "cubic"}, {"interpolation": "fourier"}, {"tilt_rad": (0.1, -0.2)}]


def test_no_turn_changes_nothing():
    volume = torch.rand(4, 3, 5)
    assert torch.equal(optics.rotate(volume, 0.0), volume)


def seen_point(x, y, z, theta, about_x=0.0, about_z=0.0):
    """Sample point that a lab point sees: inverts the rotations one by one, by their right-handed matrices."""
    cos, sin = np.cos, np.sin
    y, z = y * cos(about_x) + z * sin(about_x), z * cos(about_x) - y * sin(about_x)
    x, y = x * cos(about_z) + y * sin(about_z), y * cos(about_z) - x * sin(about_z)
    return x * cos(theta) - z * sin(theta), y, x * sin(theta) + z * cos(theta)


def detail(theta, period, n=96):
    """A wave in a round envelope, (z, 1, x), rotated by theta; no frequency above Nyquist."""
    x, _, z = seen_point(centred(n, 1.0), 0.0, centred(n, 1.0)[:, None], theta)
    wave = np.cos(2 * np.pi / period * (0.6 * x + 0.8 * z))
    return torch.as_tensor(np.exp(-(x**2 + z**2) / (2 * 11.0**2)) * wave)[:, None]


def soft_disc(theta, n=96):
    """A disc off the axis with an edge one pixel wide, (z, 1, x), rotated by theta."""
    x, _, z = seen_point(centred(n, 1.0), 0.0, centred(n, 1.0)[:, None], theta)
    return torch.as_tensor(np.clip(20.5 - np.hypot(x - 5, z + 3), 0, 1))[:, None]


def distance(found, expected):
    return float((found - expected).norm() / expected.norm())


def error_of_a_turn(thing, interpolation, *args):
    angles = (0.1, 0.35, -0.7, 2.0)
    turned = [optics.rotate(thing(0.0, *args), angle, interpolation=interpolation) for angle in angles]
    return max(distance(found, thing(angle, *args)) for found, angle in zip(turned, angles, strict=True))


def error_of_a_full_turn(thing, interpolation, *args):
    start = turned = thing(0.0, *args)
    for _ in range(12):
        turned = optics.rotate(turned, np.pi / 6, interpolation=interpolation)
    return distance(turned, start)


@pytest.mark.parametrize(
    ("period", "linear", "cubic"), [(16, 0.016, 6.5e-4), (8, 0.056, 0.005), (4, 0.21, 0.052), (2.5, 0.46, 0.25)]
)
def test_error_of_the_interpolations_for_details(period, linear, cubic):
    """The errors in the docstring of rotate; the small error of shears comes from the envelope cut by the volume."""
    assert 0.9 * linear < error_of_a_turn(detail, "linear", period) < linear
    assert 0.9 * cubic < error_of_a_turn(detail, "cubic", period) < cubic
    assert error_of_a_turn(detail, "fourier", period) < min(5e-5, linear / 300)
    assert error_of_a_full_turn(detail, "fourier", period) < min(
        1e-4, error_of_a_full_turn(detail, "linear", period) / 1e3
    )


def test_error_of_the_interpolations_for_a_sharp_disc():
    assert 0.035 < error_of_a_turn(soft_disc, "linear") < 0.045
    assert error_of_a_turn(soft_disc, "fourier") < 0.045
    assert error_of_a_turn(soft_disc, "cubic") < 0.035
    linear, cubic, fourier = (error_of_a_full_turn(soft_disc, way) for way in ("linear", "cubic", "fourier"))
    assert linear == pytest.approx(0.145, abs=0.01)
    assert cubic == pytest.approx(0.08, abs=0.01)
    assert fourier < linear / 5
    ripple = optics.rotate(soft_disc(0.0), 0.35, interpolation="fourier")
    assert 0.1 < max(float(ripple.max()) - 1, -float(ripple.min())) < 0.15
    within = optics.rotate(soft_disc(0.0), 0.35)
    assert 0 <= float(within.min()) <= float(within.max()) <= 1 + 1e-12


@pytest.mark.parametrize("shape", [(40, 57), (57, 40), (32, 32), (33, 33)])
@pytest.mark.parametrize("angle", [0.1, 0.78, -1.2, 2.0, np.pi / 2, np.pi, 7.0])
def test_shears_turn_about_the_middle_of_even_odd_and_oblong_volumes(shape, angle):
    z, x = centred(shape[0], 1.0)[:, None], centred(shape[1], 1.0)

    def blob(theta):
        there_x, _, there_z = seen_point(x, 0.0, z, theta)
        return torch.as_tensor(np.exp(-((there_x - 2) ** 2 + (there_z + 1.5) ** 2) / (2 * 1.6**2)))[:, None]

    assert distance(optics.rotate(blob(0.0), angle, interpolation="fourier"), blob(angle)) < 1e-4


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
@pytest.mark.parametrize("angle", [0.5, -0.75, 1.0, 2.4])
@pytest.mark.parametrize("corner", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_shears_bring_nothing_around_from_a_full_volume(shape, angle, corner):
    """A blob in a corner is either at its correct position or outside of the volume."""
    z, x = centred(shape[0], 1.0)[:, None], centred(shape[1], 1.0)
    corner_z, corner_x = (sign * (n / 2 - 8) for sign, n in zip(corner, shape, strict=True))

    def blob(theta):
        there_x, _, there_z = seen_point(x, 0.0, z, theta)
        return torch.as_tensor(np.exp(-((there_x - corner_x) ** 2 + (there_z - corner_z) ** 2) / (2 * 1.6**2)))[:, None]

    turned = optics.rotate(blob(0.0), angle, interpolation="fourier")
    assert float((turned - blob(angle)).abs().max()) < 1e-4


@pytest.mark.parametrize("slices", [1, 3, 5, 12, 13])
@pytest.mark.parametrize("angle", [0.0, 0.4, np.pi / 2])
@pytest.mark.parametrize("options", TURNS)
def test_turning_into_slices_is_turning_and_averaging(slices, angle, options):
    volume = torch.rand(13, 4, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    volume.requires_grad_()
    counts = optics.planes_of_slices(13, slices)
    assert sum(counts) == 13
    assert max(counts) - min(counts) <= 1
    parts = optics.rotate(volume, angle, **options).split(counts)
    apart = torch.stack([part.mean(0) for part in parts])
    together = optics.rotate(volume, angle, slices=slices, **options)
    assert torch.allclose(together, apart, atol=1e-14)
    weights = torch.rand_like(apart)
    ours, theirs = (torch.autograd.grad(planes, volume, weights)[0] for planes in (together, apart))
    assert torch.allclose(ours, theirs, atol=1e-14)


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "fourier"])
@pytest.mark.parametrize("at_once", [1, 2, 9])
def test_layout_in_memory_and_planes_made_together_change_nothing(monkeypatch, interpolation, at_once):
    monkeypatch.setattr(interpolation_module, "_BLOCK", at_once * 70 * 8)
    volume = torch.rand(9, 70, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    whole, y_last = volume.clone().requires_grad_(), optics.with_y_last(volume).requires_grad_()
    turned = [optics.rotate(part, 0.4, interpolation=interpolation) for part in (whole, y_last)]
    rows = [optics.rotate(volume[:, y : y + 1], 0.4, interpolation=interpolation) for y in range(70)]
    assert torch.equal(*turned)
    assert torch.allclose(turned[0], torch.cat(rows, 1), atol=1e-14)
    weights = torch.rand(turned[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.autograd.backward(turned, [weights, weights])
    assert torch.equal(whole.grad, y_last.grad)
    assert whole.grad.is_contiguous()
    # The gradient of a leaf has the same strides as the leaf, so that additions need no copy.
    assert y_last.grad.mT.is_contiguous()


def test_matrices_are_kept_for_as_many_turns_as_there_is_memory_for(monkeypatch):
    kept, made, new = OrderedDict(), [], sparse.coo_array
    monkeypatch.setattr(interpolation_module, "_kept", kept)
    monkeypatch.setattr(sparse, "coo_array", lambda *parts, **shape: made.append(shape) or new(*parts, **shape))
    volume = torch.rand(8, 2, 8)

    def turns_made(count):
        made.clear()
        for _ in range(2):
            for number in range(count):
                optics.rotate(volume, 0.1 + 0.01 * number)
        return len(made)

    monkeypatch.setattr(interpolation_module, "_KEPT_BYTES", 20 * optics.bytes_per_rotation(64, "linear"))
    assert turns_made(20) == 20
    assert turns_made(21) == 2 * 21 - 20
    # At least sixteen are cached, also for planes beyond the memory limit.
    monkeypatch.setattr(interpolation_module, "_KEPT_BYTES", 1)
    assert optics.cached_rotations(64, "linear") == 16
    kept.clear()
    assert turns_made(16) == 16
    assert len(kept) == 16
    kept.clear()
    # Each is requested again just after it has been removed from the cache.
    assert turns_made(17) == 2 * 17


@pytest.mark.parametrize("options", TURNS)
def test_single_precision_is_enough_for_a_turn(options):
    volume = torch.rand(24, 5, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    single = optics.rotate(volume.float(), 0.7, **options)
    assert single.dtype == torch.float32
    assert distance(single, optics.rotate(volume, 0.7, **options)) < 3e-6


@pytest.mark.parametrize(("interpolation", "bound"), [("linear", 3 / (8 * 2.5**2)), ("cubic", 0.01), ("fourier", 3e-4)])
@pytest.mark.parametrize("tilt", [(0.3, 0.0), (0.0, 0.3), (-0.2, 0.25)])
def test_blob_off_the_tilted_axis_lands_where_the_convention_says(interpolation, bound, tilt):
    """The error of linear interpolation is up to an eighth of the curvature in each of three directions."""
    z, y, x = (centred(n, 1.0) for n in (36, 44, 40))
    z, y = z[:, None, None], y[:, None]

    def blob(theta, about_x, about_z):
        there = seen_point(x, y, z, theta, about_x, about_z)
        square = sum((at - middle) ** 2 for at, middle in zip(there, (5.0, -7.0, 3.0), strict=True))
        return torch.as_tensor(np.exp(-square / (2 * 2.5**2)))

    turned = optics.rotate(blob(0.0, 0.0, 0.0), 0.5, tilt_rad=tilt, interpolation=interpolation)
    assert float((turned - blob(0.5, *tilt)).abs().max()) < bound
    assert float((turned - blob(0.5, 0.0, 0.0)).abs().max()) > 0.3


def test_top_of_the_tilted_axis_leans_downstream_and_to_minus_x():
    top = torch.zeros(21, 21, 21, dtype=torch.float64)
    top[10, 18, 10] = 1.0
    for tilt, place in (((0.5, 0.0), (14, 17, 10)), ((0.0, 0.5), (10, 17, 6))):
        turned = optics.rotate(top, 0.0, tilt_rad=tilt)
        assert np.unravel_index(int(turned.argmax()), turned.shape) == place


def test_no_tilt_is_the_turn_about_y():
    volume = torch.rand(12, 7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = optics.rotate(volume, 0.4)
    assert torch.allclose(optics.rotate(volume, 0.4, tilt_rad=(0.0, 0.0)), plain, atol=1e-12)


@pytest.mark.parametrize(
    ("volume", "options", "rule"),
    [
        (torch.ones(4, 4), {}, "real volume"),
        (torch.ones(4, 4, 4) + 0j, {}, "real volume"),
        (torch.ones(4, 4, 4), {"interpolation": "nearest"}, "interpolation"),
        (torch.ones(4, 4, 4), {"slices": 5}, "at least one plane"),
        (torch.ones(4, 4, 4), {"slices": 0}, "at least one plane"),
    ],
)
def test_turns_that_make_no_sense_are_refused(volume, options, rule):
    with pytest.raises(ScanError, match=rule):
        optics.rotate(volume, 0.3, **options)


@pytest.mark.parametrize("shape", [(8, 10), (9, 7)])
def test_far_field_of_a_plane_wave_is_one_pixel_at_n_half(shape):
    intensity = optics.far_field(torch.ones(1, *shape, dtype=torch.complex128))[0]
    assert float(intensity[shape[0] // 2, shape[1] // 2]) == pytest.approx(shape[0] * shape[1])
    assert float(intensity.sum()) == pytest.approx(shape[0] * shape[1])


def test_far_field_index_grows_with_the_direction_of_the_wave():
    x = torch.arange(16, dtype=torch.float64)
    intensity = optics.far_field(torch.exp(2j * np.pi * 3 * x / 16)[None, None, :].repeat(1, 4, 1))[0]
    assert int(intensity[2].argmax()) == 8 + 3


def test_near_field_is_the_intensity_of_the_propagated_wave():
    wave = torch.randn(2, 8, 9, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    way = {"distance_m": 4.0, "wavelength_m": 1.0, "pixel_size_m": (1.0, 2.0)}
    seen = optics.near_field(wave, optics.propagator((8, 9), **way))
    assert torch.allclose(seen, optics.propagate(wave, **way).abs().square())
    assert not seen.is_complex()


def test_whole_pixel_shift_rolls_towards_growing_index():
    wave = torch.randn(2, 8, 9, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    transfer = optics.shift_transfer((8, 9), torch.tensor([[2.0, -3.0], [0.0, 1.0]], dtype=torch.float64))
    moved = optics.apply_transfer(wave, transfer)
    assert torch.allclose(moved[0], wave[0].roll((2, -3), (0, 1)))
    assert torch.allclose(moved[1], wave[1].roll(1, 1))


def test_sub_pixel_shift_moves_a_blob_by_that_much():
    x = torch.as_tensor(centred(64, 1.0))
    blob = torch.exp(-(x**2)[:, None] / 18 - x**2 / 18) + 0j
    moved = optics.apply_transfer(blob[None], optics.shift_transfer((64, 64), torch.tensor([[1.3, -0.4]]).double()))
    expected = torch.exp(-((x - 1.3) ** 2)[:, None] / 18 - (x + 0.4) ** 2 / 18)
    assert torch.allclose(moved[0].real, expected, atol=1e-6)


def width(intensity, dim):
    """Standard deviation of an intensity (y, x) along one axis, pixels."""
    line = intensity.sum(1 - dim) / intensity.sum()
    at = torch.arange(len(line), dtype=torch.float64)
    return float(((at - (at * line).sum()).square() * line).sum().sqrt())


def gaussian_frame(shape, sigma):
    y, x = (torch.as_tensor(centred(n, 1.0)) for n in shape)
    return torch.exp(-((y[:, None] / sigma[0]) ** 2) / 2 - (x / sigma[1]) ** 2 / 2)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.5, (0.7, 2.0)])
def test_widths_of_spot_and_point_spread_add_in_quadrature(sigma):
    frame = gaussian_frame((64, 75), (3.0, 4.0))
    seen = optics.blur(frame, optics.point_spread_transfer((64, 75), sigma))
    of_y, of_x = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    assert width(seen, 0) == pytest.approx(np.hypot(3.0, of_y), rel=1e-6)
    assert width(seen, 1) == pytest.approx(np.hypot(4.0, of_x), rel=1e-6)
    assert float(seen.sum()) == pytest.approx(float(frame.sum()), rel=1e-12)
    if of_y == of_x:
        expected = gaussian_frame((64, 75), (np.hypot(3.0, of_y), np.hypot(4.0, of_x))) * float(seen.max())
        assert distance(seen, expected * float(seen.sum() / expected.sum())) < 5e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blur_of_one_bright_pixel_is_the_spot_and_nowhere_negative(dtype):
    frame = torch.zeros(3, 32, 33, dtype=dtype)
    frame[1, 16, 16] = 1e6
    seen = optics.blur(frame, optics.point_spread_transfer((32, 33), 0.6))
    assert seen.dtype == dtype
    assert float(seen.min()) >= 0
    assert float(seen[0].max()) == float(seen[2].max()) == 0
    t = 0.6**2
    spot = np.exp(-2 * t) * np.outer(
        special.iv(np.abs(np.arange(-16, 16)), t), special.iv(np.abs(np.arange(-16, 17)), t)
    )
    assert distance(seen[1].double(), torch.as_tensor(1e6 * spot)) < 1e-6
    # eight orders below the bright pixel, where single precision alone would see noise
    assert float(seen[1, 16, 21]) == pytest.approx(1e6 * spot[16, 21], rel=1e-3)


@pytest.mark.parametrize("shape", [(3, 5), (4, 4)])
def test_measured_point_spread_stands_around_each_pixel(shape):
    kernel = torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    kernel /= kernel.sum()
    frame = torch.zeros(16, 17, dtype=torch.float64)
    frame[7, 0] = 2.0
    seen = optics.blur(frame, optics.kernel_transfer((16, 17), kernel))
    expected = torch.zeros_like(frame)
    expected[: shape[0], : shape[1]] = 2 * kernel
    assert torch.allclose(seen, expected.roll((7 - shape[0] // 2, -(shape[1] // 2)), (0, 1)), atol=1e-14)


def test_binning_adds_blocks():
    frames = torch.arange(2 * 4 * 6, dtype=torch.float64).reshape(2, 4, 6)
    binned = optics.bin_pixels(frames, (2, 3))
    by_hand = [
        [frames[view, 2 * y : 2 * y + 2, 3 * x : 3 * x + 3].sum() for x in (0, 1)] for view in (0, 1) for y in (0, 1)
    ]
    assert torch.equal(binned, torch.tensor(by_hand, dtype=torch.float64).reshape(2, 2, 2))


def test_detector_parts_that_do_not_fit_are_refused():
    with pytest.raises(ScanError, match="whole number of blocks"):
        optics.bin_pixels(torch.ones(4, 6), (2, 4))
    for kernel in (torch.ones(3, 3), torch.ones(3, 99) / 297, torch.tensor([[1.5, -0.5]])):
        with pytest.raises(ScanError, match="point spread"):
            optics.kernel_transfer((16, 16), kernel)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(1, 4, 96, 96), (3, 5, 95, 98)])
def test_frames_of_modes_in_single_precision_equal_automatic_differentiation(shape, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(shape, dtype=torch.complex64, generator=generator).requires_grad_()
    weight = torch.rand(shape[1:], generator=generator)
    exact = wave.detach().to(torch.complex128).requires_grad_()
    fused, reference = optics.far_field_of_modes(wave), optics.far_field(exact).sum(0)
    torch.testing.assert_close(fused.double(), reference, rtol=1e-5, atol=1e-5)
    (weight * fused.square()).sum().backward()
    (weight * reference.square()).sum().backward()
    torch.testing.assert_close(wave.grad.to(torch.complex128), exact.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(12, 15), (16, 9)])
def test_a_shift_has_the_phase_of_each_frequency(shape):
    shift = torch.tensor([[0.3, -1.2], [0.0, 2.5]], dtype=torch.float64)
    y, x = (np.fft.fftfreq(n) for n in shape)
    phase = -2 * np.pi * (y[:, None] * shift[:, 0, None, None].numpy() + x * shift[:, 1, None, None].numpy())
    np.testing.assert_allclose(optics.shift_transfer(shape, shift).numpy(), np.exp(1j * phase), atol=1e-12)
