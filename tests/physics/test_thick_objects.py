"""Multislice, finite difference and projection of objects with a known answer."""

import numpy as np
import pytest
import torch
from known_answers import centred, cylinder, gaussian_beam

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError

LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 50e-9}
MODELS = {
    "multislice": optics.multislice,
    "finite-difference": optics.finite_difference,
    "projection": optics.projection,
}
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())


def relative(field, reference):
    """Relative distance ‖a − b‖ / ‖b‖."""
    field, reference = np.asarray(field), np.asarray(reference)
    return np.linalg.norm(field - reference) / np.linalg.norm(reference)


def random_wave(*shape, dtype=torch.complex128, seed=1):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_object(*shape, scale=1e-5, dtype=torch.float64, seed=2):
    return torch.rand(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)) * scale


@every_model
def test_vacuum_stays_vacuum(model):
    vacuum = torch.zeros(7, 16, 18, dtype=torch.float64)
    after = model(torch.ones(2, 16, 18, dtype=torch.complex128), vacuum, vacuum, slice_thickness_m=1e-6, **LIGHT)
    assert relative(after, np.ones((2, 16, 18))) < 1e-12


@every_model
def test_pure_phase_keeps_energy(model):
    wave, delta = random_wave(2, 20, 24), random_object(6, 20, 24)
    after = model(wave, delta, torch.zeros_like(delta), slice_thickness_m=5e-6, **LIGHT)
    assert relative(after, wave) > 0.1
    assert float(after.abs().square().sum()) == pytest.approx(float(wave.abs().square().sum()), rel=1e-12)


@every_model
def test_uniform_absorber_weakens_intensity_by_beer_and_lambert(model):
    beta = torch.full((10, 8, 8), 2e-6, dtype=torch.float64)
    after = model(torch.ones(1, 8, 8, dtype=torch.complex128), 0 * beta, beta, slice_thickness_m=1e-6, **LIGHT)
    expected = np.exp(-2 * (2 * np.pi / LIGHT["wavelength_m"]) * 2e-6 * 10e-6)
    assert after.abs().square().numpy() == pytest.approx(np.full((1, 8, 8), expected), rel=1e-12)


@every_model
def test_uniform_phase_plate_retards_by_minus_k_delta_thickness(model):
    delta = torch.full((4, 8, 8), 1e-6, dtype=torch.float64)
    after = model(torch.ones(1, 8, 8, dtype=torch.complex128), delta, 0 * delta, slice_thickness_m=2e-6, **LIGHT)
    expected = np.exp(-1j * 2 * np.pi / LIGHT["wavelength_m"] * 1e-6 * 8e-6)
    assert relative(after, np.full((1, 8, 8), expected)) < 1e-12


@every_model
def test_one_slice_equals_the_thin_formula(model):
    wave, delta = random_wave(1, 16, 16), random_object(1, 16, 16)
    if model is optics.finite_difference:
        wave = torch.ones_like(wave)
    thickness = 1e-9
    after = model(wave, delta * 1e4, delta * 1e3, slice_thickness_m=thickness, **LIGHT)
    k = 2 * np.pi / LIGHT["wavelength_m"]
    assert relative(after, wave * torch.exp(-k * thickness * (1j * delta * 1e4 + delta * 1e3))) < 1e-3


def test_a_slice_acts_at_its_own_mid_plane():
    wave, delta = random_wave(1, 16, 16), random_object(1, 16, 16)
    half = {"distance_m": 2.5e-5, "wavelength_m": 1e-10, "pixel_size_m": (50e-9, 50e-9)}
    k = 2 * np.pi / LIGHT["wavelength_m"]
    by_hand = optics.propagate(optics.propagate(wave, **half) * torch.exp(-1j * k * 5e-5 * delta), **half)
    for model in (optics.multislice, optics.projection):
        assert relative(model(wave, delta, 0 * delta, slice_thickness_m=5e-5, **LIGHT), by_hand) < 1e-12


def test_projection_stands_in_the_middle_of_the_volume():
    wave, delta = random_wave(1, 16, 16), random_object(5, 16, 16)
    thick = {"slice_thickness_m": 1e-5, **LIGHT}
    whole = optics.projection(wave, delta, 0.1 * delta, **thick)
    middle = torch.zeros_like(delta)
    middle[2] = delta.sum(0)
    assert relative(whole, optics.multislice(wave, middle, 0.1 * middle, **thick)) < 1e-12


@every_model
def test_each_view_may_have_its_own_object(model):
    waves, delta = random_wave(3, 12, 14), random_object(4, 3, 12, 14)
    thick = {"slice_thickness_m": 1e-5, **LIGHT}
    together = model(waves, delta, 0.1 * delta, **thick)
    for view in range(3):
        alone = model(waves[view : view + 1], delta[:, view], 0.1 * delta[:, view], **thick)
        assert relative(together[view], alone[0]) < 1e-12


@every_model
def test_pixels_may_differ_in_y_and_x(model):
    wave, delta = random_wave(1, 12, 12), random_object(3, 12, 12)
    light = {"wavelength_m": 1e-10, "slice_thickness_m": 1e-5}
    upright = model(wave, delta, 0 * delta, pixel_size_m=(50e-9, 80e-9), **light)
    lying = model(wave.mT, delta.mT, 0 * delta, pixel_size_m=(80e-9, 50e-9), **light).mT
    assert relative(upright, lying) < 1e-12
    assert relative(model(wave, delta, 0 * delta, pixel_size_m=50e-9, **light), upright) > 1e-3


@every_model
@pytest.mark.parametrize(
    ("wave", "delta", "beta"),
    [
        (torch.ones(1, 8, 8), torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)),
        (torch.ones(8, 8) + 0j, torch.zeros(2, 8, 8), torch.zeros(2, 8, 8)),
        (torch.ones(1, 8, 8) + 0j, torch.zeros(2, 8, 9), torch.zeros(2, 8, 9)),
        (torch.ones(1, 8, 8) + 0j, torch.zeros(2, 8, 8), torch.zeros(3, 8, 8)),
        (torch.ones(2, 8, 8) + 0j, torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)),
        (torch.ones(1, 8, 8) + 0j, torch.zeros(8, 8), torch.zeros(8, 8)),
    ],
)
def test_shapes_that_contradict_each_other_are_refused(model, wave, delta, beta):
    with pytest.raises(ScanError, match="complex wave"):
        model(wave, delta, beta, slice_thickness_m=1e-6, **LIGHT)


def grin_error(model, slices, **options):
    """Error of a sheet of light after 0.4 periods of a quadratic medium, against the ABCD law."""
    wavelength, pixel, n, waist = 1e-10, 50e-9, 256, 12 * 50e-9
    x = centred(n, pixel)
    g = 1.7 / (np.pi * waist**2 / wavelength)
    length = 0.4 * 2 * np.pi / g
    delta = torch.as_tensor(g**2 * x**2 / 2)[None, None].repeat(slices, 1, 1)
    start = torch.as_tensor(gaussian_beam(x, waist, wavelength, ((1, 0), (0, 1)), 1))[None, None]
    light = {"wavelength_m": wavelength, "pixel_size_m": pixel, "slice_thickness_m": length / slices}
    after = model(start, delta, 0 * delta, **light, **options)[0, 0].abs()
    abcd = ((np.cos(g * length), np.sin(g * length) / g), (-g * np.sin(g * length), np.cos(g * length)))
    return relative(after, np.abs(gaussian_beam(x, waist, wavelength, abcd, 1)))


@pytest.mark.parametrize(
    ("model", "options"),
    [(optics.multislice, {}), (optics.multislice, {"kernel": "fresnel"}), (optics.finite_difference, {})],
)
def test_gaussian_beam_in_a_quadratic_medium_follows_abcd_at_second_order(model, options):
    errors = [grin_error(model, slices, **options) for slices in (16, 32, 64)]
    assert errors[-1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def disc(n, width, radius, fine=8):
    """Share (z, x) of each pixel that lies inside a disc."""
    z, x = centred(n * fine, 1 / fine), centred(width * fine, 1 / fine)
    inside = (z[:, None] ** 2 + x**2) < radius**2
    return inside.reshape(n, fine, width, fine).mean((1, 3))


RADIUS, WIDTH = 160, 1024


@pytest.fixture(scope="module")
def cylinder_errors():
    """δ → model → error of the scattered field of a cylinder at twice its radius; λ is one pixel."""
    share = torch.as_tensor(disc(2 * RADIUS, WIDTH, RADIUS))[:, None]
    start = torch.ones(1, 1, WIDTH, dtype=torch.complex128)
    light = {"wavelength_m": 1.0, "pixel_size_m": (1.0, 1.0)}
    behind = torch.zeros(RADIUS, 1, WIDTH, dtype=torch.float64)
    errors = {}
    for delta in (0.01, 1e-4):
        exact = cylinder(centred(WIDTH, 1.0), 2 * RADIUS, RADIUS, 1 - delta, 1.0)
        optics_of = {"slice_thickness_m": 1.0, **light}
        fields = {
            kernel: optics.propagate(
                optics.multislice(start, delta * share, 0 * share, kernel=kernel, **optics_of),
                distance_m=RADIUS,
                kernel=kernel,
                **light,
            )
            for kernel in ("angular_spectrum", "fresnel")
        }
        thin = optics.projection(start, delta * share, 0 * share, **optics_of)
        fields["projection"] = optics.propagate(thin, distance_m=RADIUS, **light)
        exit_wave = optics.finite_difference(start, delta * share, 0 * share, **optics_of)
        fields["finite-difference"] = optics.finite_difference(exit_wave, behind, behind, **optics_of)
        errors[delta] = {name: relative(field[0, 0] - 1, exact - 1) for name, field in fields.items()}
    return errors


@pytest.mark.parametrize(
    ("model", "bound"),
    [("angular_spectrum", 0.021), ("fresnel", 0.056), ("finite-difference", 0.077), ("projection", 0.12)],
)
def test_strong_thick_cylinder_against_partial_waves(cylinder_errors, model, bound):
    assert cylinder_errors[0.01][model] < bound


def test_thick_models_beat_projection_on_the_strong_cylinder(cylinder_errors):
    errors = cylinder_errors[0.01]
    assert errors["angular_spectrum"] < errors["fresnel"] < errors["finite-difference"] < errors["projection"]


def test_all_models_agree_on_the_weak_cylinder(cylinder_errors):
    assert max(cylinder_errors[1e-4].values()) < 5e-3


@every_model
def test_single_precision_is_enough(model):
    wave, delta = random_wave(1, 64, 64), random_object(64, 64, 64)
    thick = {"slice_thickness_m": 2e-6, **LIGHT}
    double = model(wave, delta, 0.1 * delta, **thick)
    single = model(wave.to(torch.complex64), delta.float(), 0.1 * delta.float(), **thick)
    assert single.dtype == torch.complex64
    assert relative(single, double) < 1e-5
