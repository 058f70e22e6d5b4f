"""Every propagation through objects with analytic solutions."""

import functools
import itertools

import numpy as np
import pytest
import torch
from known_answers import centred, cylinder, gaussian_beam
from scipy import special

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError

LIGHT = {"wavelength_m": 1e-10, "pixel_size_m": 50e-9}
MODELS = optics.PROPAGATIONS
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


@pytest.mark.parametrize("model", [model for name, model in MODELS.items() if name != "tiled-multislice"])
def test_pure_phase_keeps_energy(model):
    """Tiles are excluded: their accuracy depends on the halo, see test_tiles."""
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
    """A plane wave, because the stencils treat white noise differently even in the thinnest slice of vacuum."""
    wave, delta, thickness = torch.ones(1, 16, 16, dtype=torch.complex128), random_object(1, 16, 16, scale=0.1), 1e-9
    after = model(wave, delta, 0.1 * delta, slice_thickness_m=thickness, **LIGHT)
    k = 2 * np.pi / LIGHT["wavelength_m"]
    assert relative(after, wave * torch.exp(-k * thickness * (1j * delta + 0.1 * delta))) < 1e-3


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


def grin_error(model, slices, *, unequal=0.0, **options):
    """Error of a Gaussian beam in x after 0.4 periods of a quadratic medium, against the ABCD law.

    Slices are alternately thicker and thinner than their mean by the part ``unequal`` of it.
    """
    wavelength, pixel, n, waist = 1e-10, 50e-9, 256, 12 * 50e-9
    x = centred(n, pixel)
    g = 1.7 / (np.pi * waist**2 / wavelength)
    length = 0.4 * 2 * np.pi / g
    delta = torch.as_tensor(g**2 * x**2 / 2)[None, None].repeat(slices, 1, 1)
    start = torch.as_tensor(gaussian_beam(x, waist, wavelength, ((1, 0), (0, 1)), 1))[None, None]
    thickness = [length / slices * (1 + unequal * (-1) ** number) for number in range(slices)]
    light = {"wavelength_m": wavelength, "pixel_size_m": pixel, "slice_thickness_m": thickness}
    after = model(start, delta, 0 * delta, **light, **options)[0, 0].abs()
    abcd = ((np.cos(g * length), np.sin(g * length) / g), (-g * np.sin(g * length), np.cos(g * length)))
    return relative(after, np.abs(gaussian_beam(x, waist, wavelength, abcd, 1)))


THICK_MODELS = {
    "angular spectrum": optics.multislice,
    "fresnel": functools.partial(optics.multislice, kernel="fresnel"),
    "tiled": functools.partial(optics.tiled_multislice, tiles=(1, 2), accuracy=0.02),
    "wide": MODELS["finite-difference-wide"],
    "compact": optics.finite_difference,
    "plain": functools.partial(optics.finite_difference, stencil="plain"),
}


@pytest.mark.parametrize("unequal", [0.0, 0.5])
@pytest.mark.parametrize("name", ["angular spectrum", "fresnel", "compact"])
def test_gaussian_beam_in_a_quadratic_medium_follows_abcd_at_second_order(name, unequal):
    errors = [grin_error(THICK_MODELS[name], slices, unequal=unequal) for slices in (16, 32, 64)]
    assert errors[-1] < 7e-4
    assert [thick / thin for thick, thin in itertools.pairwise(errors)] == pytest.approx([4, 4], rel=0.16)


@pytest.mark.parametrize("unequal", [0.0, 0.5])
def test_the_wide_stencil_is_as_good_in_a_quadratic_medium(unequal):
    """``wide`` is fitted to the whole step, so it shows no order: 2e-4 with 32 slices, where ``compact`` has 2e-3."""
    assert grin_error(THICK_MODELS["wide"], 32, unequal=unequal) < 3e-4


def test_projection_fails_in_a_quadratic_medium():
    assert grin_error(optics.projection, 64) > 0.1


def smooth_object(planes):
    """Four Gaussian bodies behind one another in a unit length, (z, y, x), averaged exactly over each slice's depth."""
    edges, at = np.cumsum([0.0, *planes]), centred(48, 1.0)
    total = 0
    for middle, y, x in ((0.2, -4, 3), (0.4, 5, 1), (0.6, -1, -6), (0.85, 2, 4)):
        share = np.diff(special.erf((edges - middle) / 0.15)) / np.asarray(planes)
        plane = np.exp(-((at[:, None] - y) ** 2 + (at - x) ** 2) / 18)
        total = total + share[:, None, None] * plane
    return torch.as_tensor(total)


@pytest.mark.parametrize("unequal", [0.0, 0.5])
@pytest.mark.parametrize("name", ["angular spectrum", "fresnel", "wide", "compact"])
def test_error_against_slice_count_falls_at_second_order(name, unequal):
    """For an object that varies along the beam, against the same model with many thin slices."""
    wave, length = torch.ones(1, 48, 48, dtype=torch.complex128), 400.0

    def through(slices, unequal):
        planes = [(1 + unequal * (-1) ** number) / slices for number in range(slices)]
        delta, thickness = 4e-4 * smooth_object(planes), [length * plane for plane in planes]
        light = {"wavelength_m": 1.0, "pixel_size_m": 2.0, "slice_thickness_m": thickness}
        return THICK_MODELS[name](wave, delta, 0.1 * delta, **light)

    fine = through(512, 0.0)
    errors = [relative(through(slices, unequal) - 1, fine - 1) for slices in (32, 64, 128)]
    assert errors[0] > 1e-4
    assert [thick / thin for thick, thin in itertools.pairwise(errors)] == pytest.approx([4, 4], rel=0.15)


@functools.cache
def disc(n, width, radius, fine=8):
    """Fraction (z, x) of each pixel inside a disc."""
    z, x = centred(n * fine, 1 / fine), centred(width * fine, 1 / fine)
    inside = (z[:, None] ** 2 + x**2) < radius**2
    return torch.as_tensor(inside.reshape(n, fine, width, fine).mean((1, 3)))


WIDTH = 1024
exact_cylinder = functools.cache(lambda *args: cylinder(centred(WIDTH, 1.0), *args))


def cylinder_error(name, radius, delta, wavelength, planes_at, *, slice_pixels=1, dtype=torch.complex128):
    """Error of the scattered field of a cylinder along y, in the plane at ``planes_at`` radii behind its axis.

    Lengths are in pixels. Finite differences go on through vacuum by themselves.
    """
    start = torch.ones(1, 1, WIDTH, dtype=dtype)
    share = disc(2 * radius, WIDTH, radius).unflatten(0, (-1, slice_pixels)).mean(1)[:, None].to(start.real.dtype)
    light, behind = {"wavelength_m": wavelength, "pixel_size_m": (1.0, 1.0)}, (planes_at - 1) * radius
    model = THICK_MODELS.get(name, optics.projection)
    field = model(start, delta * share, 0 * share, slice_thickness_m=float(slice_pixels), **light)
    if name in ("wide", "compact", "plain") and behind:
        vacuum = torch.zeros(round(behind), 1, WIDTH, dtype=start.real.dtype)
        field = model(field, vacuum, vacuum, slice_thickness_m=behind / len(vacuum), **light)
    elif behind:
        kernel = "fresnel" if name == "fresnel" else "angular_spectrum"
        field = optics.propagate(field, distance_m=behind, kernel=kernel, **light)
    exact = exact_cylinder(planes_at * radius, radius, 1 - delta, wavelength)
    return relative(field[0, 0].numpy() - 1, exact - 1)


STRONG = (160, 0.01, 0.992, 2)
"""Radius in pixels, δ, λ in pixels, plane in radii: 20 rad of phase, 59 depths of field thick."""


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("angular spectrum", 0.018, 0.02),
        ("tiled", 0.018, 0.02),
        ("wide", 0.02, 0.025),
        ("fresnel", 0.05, 0.054),
        ("compact", 0.065, 0.073),
        ("projection", 0.11, 0.115),
        ("plain", 0.13, 0.142),
    ],
)
def test_strong_thick_cylinder_against_partial_waves(name, low, high):
    assert low < cylinder_error(name, *STRONG) < high


@pytest.mark.parametrize(
    ("name", "slice_pixels", "low", "high"),
    [
        ("angular spectrum", 4, 0.02, 0.021),
        ("angular spectrum", 16, 0.046, 0.048),
        ("wide", 4, 0.02, 0.026),
        ("wide", 16, 0.046, 0.054),
    ],
)
def test_slices_of_several_pixels_on_the_strong_cylinder(name, slice_pixels, low, high):
    assert low < cylinder_error(name, *STRONG, slice_pixels=slice_pixels) < high


@pytest.mark.parametrize(
    ("case", "bounds"),
    [
        ((160, 0.01, 0.992, 1), (0.022, 0.026, 0.044, 0.060, 0.115)),
        ((160, 0.01, 0.992, 3), (0.018, 0.023, 0.062, 0.080, 0.114)),
        ((240, 0.01, 1.0, 1.5), (0.016, 0.020, 0.050, 0.067, 0.125)),
        ((80, 0.02, 1.0, 2), (0.047, 0.054, 0.107, 0.153, 0.186)),
        ((120, 0.005, 1.0, 2), (0.011, 0.014, 0.024, 0.030, 0.036)),
        ((100, 0.01, 1.5, 4), (0.011, 0.014, 0.043, 0.047, 0.055)),
        ((160, 0.01, 0.5, 2), (0.046, 0.057, 0.062, 0.140, 0.159)),
    ],
)
def test_models_keep_their_order_for_other_cylinders(case, bounds):
    """Other distances, radii, δ and wavelengths; the bounds are measured values, rounded up."""
    names = ("angular spectrum", "wide", "fresnel", "compact", "projection")
    errors = [cylinder_error(name, *case) for name in names]
    assert all(error < bound for error, bound in zip(errors, bounds, strict=True))
    assert errors == sorted(errors)


@pytest.mark.parametrize("case", [(160, 1e-4, 1.0, 2), (80, 1e-4, 1.0, 2), (160, 1e-4, 2.0, 2), (160, 1e-4, 0.5, 2)])
def test_all_models_agree_on_a_weak_cylinder(case):
    """A total phase of tenths of a radian: even projection and the plain stencil are accurate at any thickness."""
    errors = [cylinder_error(name, *case) for name in (*THICK_MODELS, "projection")]
    assert max(errors) < 0.013


def test_a_cylinder_in_single_precision():
    for name in (*THICK_MODELS, "projection"):
        single, double = (cylinder_error(name, *STRONG, dtype=dtype) for dtype in (torch.complex64, torch.complex128))
        assert single == pytest.approx(double, abs=2e-4)


def test_projection_in_the_exit_plane_would_look_worse_than_it_is():
    """Its single plane is the object's mid-plane; at the exit plane its error would be three times as large."""
    radius, delta, wavelength, planes_at = STRONG
    depth = disc(2 * radius, WIDTH, radius).sum(0)
    light = {"wavelength_m": wavelength, "pixel_size_m": (1.0, 1.0)}
    thin = torch.exp(-2j * np.pi / wavelength * delta * depth)[None, None]
    exact = exact_cylinder(planes_at * radius, radius, 1 - delta, wavelength)
    middle, end = (
        relative(optics.propagate(thin, distance_m=distance, **light)[0, 0].numpy() - 1, exact - 1)
        for distance in (planes_at * radius, (planes_at - 1) * radius)
    )
    assert middle == pytest.approx(cylinder_error("projection", *STRONG), rel=1e-6)
    assert end > 3 * middle


@every_model
def test_single_precision_is_enough(model):
    wave, delta = random_wave(1, 64, 64), random_object(64, 64, 64)
    thick = {"slice_thickness_m": 2e-6, **LIGHT}
    double = model(wave, delta, 0.1 * delta, **thick)
    single = model(wave.to(torch.complex64), delta.float(), 0.1 * delta.float(), **thick)
    assert single.dtype == torch.complex64
    assert relative(single, double) < 1e-5
