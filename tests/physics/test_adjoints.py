"""Dot tests of all linear operators; finite-difference tests of all gradients."""

import numpy as np
import pytest
import torch

from bluesky_multislice import optics

LIGHT = {"wavelength_m": 1.0, "pixel_size_m": (1.5, 2.0)}
THICK = {"slice_thickness_m": 3.0, **LIGHT}
MODELS = {
    "multislice": optics.multislice,
    "finite-difference": optics.finite_difference,
    "projection": optics.projection,
}


def random(*shape, seed, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small_object(*shape, seed):
    return 0.02 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def through(name, wave):
    return optics.PROPAGATIONS[name](wave, small_object(4, 8, 9, seed=5), small_object(4, 8, 9, seed=6), **THICK)


def rotated(wave, **options):
    return torch.complex(optics.rotate(wave.real, 0.4, **options), optics.rotate(wave.imag, 0.4, **options))


LINEAR = {
    "angular spectrum": lambda wave: optics.propagate(wave, distance_m=7.0, **LIGHT),
    "fresnel": lambda wave: optics.propagate(wave, distance_m=7.0, kernel="fresnel", **LIGHT),
    "evanescent": lambda wave: optics.propagate(wave, distance_m=1.0, wavelength_m=1.0, pixel_size_m=(0.3, 0.3)),
    "multislice of the wave": lambda wave: through("multislice", wave),
    "finite difference of the wave": lambda wave: through("finite-difference", wave),
    "projection of the wave": lambda wave: through("projection", wave),
    "shift": lambda wave: optics.apply_transfer(
        wave, optics.shift_transfer((8, 9), torch.tensor([[0.3, -1.7], [2.2, 0.1]], dtype=torch.float64)).to(wave.dtype)
    ),
    "rotation": lambda wave: rotated(wave),
    "rotation into slices": lambda wave: rotated(wave, slices=1),
    "rotation by cubic convolution, tilted": lambda wave: rotated(wave, tilt_rad=(0.2, -0.3), interpolation="cubic"),
    "rotation by shears": lambda wave: rotated(wave, interpolation="fourier"),
    "rotation by shears, tilted": lambda wave: rotated(wave, tilt_rad=(0.2, -0.3), interpolation="fourier"),
    "rotation, tilted": lambda wave: rotated(wave, tilt_rad=(0.2, -0.3)),
}


@pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR.keys())
def test_dot_product(operator):
    """⟨Ax, y⟩ = ⟨x, Aᴴy⟩ with Aᴴ from automatic differentiation."""
    x = random(2, 8, 9, seed=1).requires_grad_()
    image = operator(x)
    y = random(*image.shape, seed=2)
    (adjoint,) = torch.autograd.grad(image, x, y)
    left, right = torch.vdot(y.flatten(), image.detach().flatten()), torch.vdot(adjoint.flatten(), x.detach().flatten())
    assert abs(left - right) < 1e-12 * abs(left)


@pytest.mark.parametrize("operator", LINEAR.values(), ids=LINEAR.keys())
def test_linear(operator):
    x, y = random(2, 8, 9, seed=1), random(2, 8, 9, seed=2)
    together, apart = operator((2 - 1j) * x + y), (2 - 1j) * operator(x) + operator(y)
    assert (together - apart).abs().max() < 1e-12 * together.abs().max()


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize("own_object", [False, True])
def test_gradients_in_wave_delta_and_beta_equal_differences(model, own_object):
    shape = (3, 2, 4, 5) if own_object else (3, 4, 5)
    inputs = [random(2, 4, 5, seed=1), small_object(*shape, seed=2), small_object(*shape, seed=3)]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda wave, delta, beta: model(wave, delta, beta, **THICK), inputs, fast_mode=True)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_taylor_remainder_of_the_misfit_falls_at_second_order(model):
    wave, delta, beta = random(2, 12, 10, seed=1), small_object(6, 12, 10, seed=2), small_object(6, 12, 10, seed=3)
    transfer = optics.propagator((12, 10), distance_m=20.0, **LIGHT)

    def misfit(delta):
        intensity = optics.near_field(model(wave, delta, beta, **THICK), transfer)
        return (intensity.sqrt() - 1).square().sum()

    delta.requires_grad_()
    value = misfit(delta)
    (gradient,) = torch.autograd.grad(value, delta)
    direction = random(6, 12, 10, seed=4, dtype=torch.float64) * 1e-3
    value, slope = value.detach(), (gradient * direction).sum()
    remainders = [
        float(abs(misfit(delta.detach() + step * direction) - value - step * slope)) for step in (1.0, 0.5, 0.25)
    ]
    assert remainders[0] / remainders[1] == pytest.approx(4, rel=0.1)
    assert remainders[1] / remainders[2] == pytest.approx(4, rel=0.1)


def test_gradients_reach_positions_and_detector_intensities():
    wave = random(2, 8, 9, seed=1)
    shift = torch.tensor([[0.3, -0.7], [1.2, 0.1]], dtype=torch.float64, requires_grad=True)

    def intensity(shift):
        return optics.far_field(wave * optics.apply_transfer(wave, optics.shift_transfer((8, 9), shift)))

    assert torch.autograd.gradcheck(intensity, [shift])


def test_gradients_reach_detector_blur_and_bins():
    intensity = torch.rand(2, 6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    sigma = torch.tensor([0.6, 1.1], dtype=torch.float64, requires_grad=True)

    def seen(intensity, sigma):
        return optics.bin_pixels(optics.blur(intensity, optics.point_spread_transfer((6, 9), sigma)), (2, 3))

    assert torch.autograd.gradcheck(seen, [intensity, sigma])


@pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])
@pytest.mark.parametrize("distance_m", [2.0, -2.0])
@pytest.mark.parametrize("band_limit", [False, True])
def test_gradients_reach_the_distance(kernel, distance_m, band_limit):
    """Includes evanescent waves and the band limit."""
    wave = random(2, 6, 7, seed=1).requires_grad_()
    distance = torch.tensor(distance_m, dtype=torch.float64, requires_grad=True)
    way = {"wavelength_m": 1.0, "pixel_size_m": (0.4, 1.2), "kernel": kernel, "band_limit": band_limit}
    assert torch.autograd.gradcheck(
        lambda wave, distance: optics.propagate(wave, distance_m=distance, **way), [wave, distance]
    )
    with torch.no_grad():
        plain = optics.propagate(wave, distance_m=distance_m, **way)
        assert torch.equal(optics.propagate(wave, distance_m=distance, **way), plain)


def matrix(n_z, n_x, angle, interpolation):
    """Matrix of a rotation of one (z, x) plane, from unit vectors, and of its gradient."""
    units = torch.eye(n_z * n_x, dtype=torch.float64).reshape(n_z * n_x, n_z, n_x).movedim(0, 1)
    volume = units.clone().requires_grad_()
    turned = optics.rotate(volume, angle, interpolation=interpolation)
    (pulled,) = torch.autograd.grad(turned, volume, units)
    forward, back = (part.detach().movedim(1, 0).reshape(n_z * n_x, n_z * n_x) for part in (turned, pulled))
    return forward.T.numpy(), back.T.numpy()


@pytest.mark.parametrize(("n_z", "n_x"), [(6, 6), (5, 7), (8, 5)])
@pytest.mark.parametrize("angle", [0.3, -1.1, np.pi / 2, 2.5])
@pytest.mark.parametrize("interpolation", ["linear", "cubic", "fourier"])
def test_gradient_of_rotation_is_its_exact_transpose(n_z, n_x, angle, interpolation):
    forward, back = matrix(n_z, n_x, angle, interpolation)
    assert np.allclose(back, forward.T, atol=1e-14)


def smooth_volume(*shape):
    at = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape), indexing="ij")
    return torch.exp(-((at[0] - 0.7) ** 2 + (at[1] + 0.4) ** 2 + (at[2] - 1.1) ** 2) / 8)


@pytest.mark.parametrize("interpolation", ["linear", "cubic", "fourier"])
@pytest.mark.parametrize("angle", [0.3, 1.9])
@pytest.mark.parametrize("slices", [None, 3])
def test_gradients_reach_volume_angle_and_tilt(interpolation, angle, slices):
    """The derivative of the interpolated rotation is exact, also for linear interpolation away from its kinks."""
    angle = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    tilt = torch.tensor([0.11, -0.07], dtype=torch.float64, requires_grad=True)
    options = {"interpolation": interpolation, "slices": slices}
    volume = smooth_volume(7, 5, 8).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *inputs: optics.rotate(*inputs, **options), [volume, angle], atol=1e-6, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda volume, angle, tilt: optics.rotate(volume, angle, tilt_rad=tilt, **options),
        [volume, angle, tilt],
        atol=1e-6,
        fast_mode=True,
    )
