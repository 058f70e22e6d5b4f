"""Signs and origins of rotation, shift and detectors."""

import numpy as np
import pytest
import torch
from known_answers import centred

from bluesky_multislice import optics


@pytest.mark.parametrize("n", [8, 9])
def test_quarter_turn_takes_z_to_x(n):
    """A point at +z stands at +x after a turn of +90°."""
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


def test_no_turn_changes_nothing():
    volume = torch.rand(4, 3, 5)
    assert torch.equal(optics.rotate(volume, 0.0), volume)


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
