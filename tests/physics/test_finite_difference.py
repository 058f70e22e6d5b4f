"""Finite difference: its systems, its stencils, its boundaries and its gradient."""

import functools

import numpy as np
import pytest
import torch
from known_answers import centred, cylinder, gaussian_beam

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError
from bluesky_multislice.optics.stencils import fractions
from bluesky_multislice.optics.tridiagonal import Solver, Tridiagonal

WAVELENGTH_M, PIXEL_M = 1e-10, 50e-9
XRAY = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": PIXEL_M}
WIDE_LIGHT = {"wavelength_m": 1.0, "pixel_size_m": (1.5, 2.0)}
CPU = torch.device("cpu")
every_option = pytest.mark.parametrize(
    ("stencil", "boundary"),
    [(stencil, boundary) for stencil in ("plain", "compact", "wide") for boundary in ("periodic", "outgoing")],
)


def relative(field, reference):
    """Relative distance ‖a − b‖ / ‖b‖."""
    field, reference = torch.as_tensor(field), torch.as_tensor(reference)
    return float((field - reference).norm() / reference.norm())


def random(*shape, seed=1, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small_object(*shape, seed=2):
    return 0.02 * torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def in_vacuum(wave, *, slices=1, **options):
    """Return the wave behind slices of vacuum."""
    vacuum = torch.zeros(slices, *wave.shape[-2:], dtype=wave.real.dtype)
    return optics.finite_difference(wave, vacuum, vacuum, **options)


# Systems


def dominated(n, seed=3):
    """A periodic matrix whose diagonal slightly exceeds its coupling."""
    lower, turn, upper = (random(n, seed=seed + i) for i in range(3))
    return Tridiagonal(lower, turn.sgn() * (1.1 * (lower.abs() + upper.abs())), upper)


def dense(matrix):
    n = len(matrix.diagonal)
    found = torch.diag(matrix.diagonal)
    for i in range(n):
        found[i, i - 1] += matrix.lower[i]
        found[i, (i + 1) % n] += matrix.upper[i]
    return found


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 37, 64])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex128, 1e-13), (torch.complex64, 1e-5)])
def test_reduction_equals_the_dense_inverse_and_its_transpose(n, dtype, bound):
    matrix, right_side = dominated(n), random(2, 3, n, dtype=dtype)
    weighted = 2j * torch.linalg.inv(dense(matrix))
    double = right_side.to(torch.complex128)
    assert relative(Solver(matrix, 2j, dtype, CPU).solve(right_side), double @ weighted.T) < bound
    assert relative(Solver(matrix.transposed(), 2j, dtype, CPU).solve(right_side), double @ weighted) < bound
    assert relative(matrix.to(dtype, CPU).product(right_side), double @ dense(matrix).T) < bound


def test_systems_lie_along_the_last_axis_however_it_is_stored():
    solver, lines = Solver(dominated(16), 1.0, torch.complex128, CPU), random(2, 16, 5)
    assert relative(solver.solve(lines.mT), solver.solve(lines.mT.contiguous())) < 1e-15


def test_right_side_is_left_as_it_was():
    solver, lines = Solver(dominated(16), 1.0, torch.complex128, CPU), random(2, 16)
    before = lines.clone()
    solver.solve(lines)
    assert torch.equal(lines, before)


def test_systems_whose_pixels_do_not_decouple_are_refused():
    ones = torch.ones(8, dtype=torch.complex128)
    with pytest.raises(ScanError, match="decouple"):
        Solver(Tridiagonal(-ones, 2 * ones, -ones), 1.0, torch.complex128, CPU)


# Stencils


def factor(stencil, strength, angle, radians_per_pixel):
    """Factor of a step on a wave with ``angle`` rad per pixel."""
    s = -4 * np.sin(angle / 2) ** 2
    q = fractions(stencil, strength, radians_per_pixel)[0].numpy()[:, None]
    return np.prod((1 + q.conj() * s) / (1 + q * s), axis=0)


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
@pytest.mark.parametrize("radians_per_pixel", [0.5, 1.5, 6.0, 1e4])
@pytest.mark.parametrize("strength", [1e-4, 0.1, 3.0])
def test_steps_keep_energy_and_fractions_decay_outwards(stencil, radians_per_pixel, strength):
    """The poles 1/q are where a stretched coordinate damps; Im q > 0 would amplify at an outgoing boundary."""
    angle = np.linspace(0, np.pi, 200)
    assert np.abs(factor(stencil, strength, angle, radians_per_pixel)) == pytest.approx(1, rel=1e-12)
    assert (fractions(stencil, strength, radians_per_pixel)[0].imag < 0).all()


@pytest.mark.parametrize(
    ("stencil", "share"),
    [("plain", 2 / (np.pi / 2) ** 2), ("compact", 2.4 / (np.pi / 2) ** 2), ("wide", 1.0)],
)
def test_phase_of_a_thin_step_at_half_the_nyquist_frequency(stencil, share):
    """The paraxial phase is dθ²/2k = 2aθ² with a = d/(4kh²); ``plain`` is too small by 18.9 %, ``compact`` by 2.7 %."""
    strength, angle = 1e-4, np.pi / 2
    turned = np.angle(factor(stencil, strength, angle, 1e4))
    assert turned / (-2 * strength * angle**2) == pytest.approx(share, abs=1e-3)


@pytest.mark.parametrize("radians_per_pixel", [0.5, 2.0, 2 * np.pi, 1e4])
def test_wide_is_exact_at_the_angles_it_was_fitted_to(radians_per_pixel):
    strength, angle = 0.02, np.array([0.3, 0.6, 0.8]) * min(np.pi, radians_per_pixel)
    cosine = np.sqrt(1 - (angle / radians_per_pixel) ** 2)
    turn = -4 * strength * angle**2 / (1 + cosine)
    assert factor("wide", strength, angle, radians_per_pixel) == pytest.approx(np.exp(1j * turn), abs=1e-9)


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
@pytest.mark.parametrize("strength", [0.02, 0.3, 2.0])
def test_slope_of_the_fractions_equals_differences(stencil, strength):
    ends = [fractions(stencil, strength * (1 + step), 3.0)[0] for step in (-1e-5, 1e-5)]
    slope = fractions(stencil, strength, 3.0)[1]
    assert relative((ends[1] - ends[0]) / (2e-5 * strength), slope) < 1e-6


# Vacuum


def test_round_gaussian_beam_spreads_by_the_abcd_law():
    n, waist = 192, 12 * PIXEL_M
    rayleigh = np.pi * waist**2 / WAVELENGTH_M
    x = centred(n, PIXEL_M)
    r = np.hypot(x[:, None], x)
    start = torch.as_tensor(gaussian_beam(r, waist, WAVELENGTH_M, ((1, 0), (0, 1)), 2))[None]
    after = in_vacuum(start, slices=30, slice_thickness_m=1.5 * rayleigh / 30, **XRAY)
    expected = gaussian_beam(r, waist, WAVELENGTH_M, ((1, 1.5 * rayleigh), (0, 1)), 2)
    assert relative(after[0], expected) < 1e-3


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
def test_periodic_field_keeps_energy_in_vacuum(stencil):
    wave = random(2, 24, 31)
    light = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, 2 * PIXEL_M), "slice_thickness_m": 1e-4}
    after = in_vacuum(wave, slices=5, stencil=stencil, **light)
    assert relative(after, wave) > 0.1
    assert float(after.abs().square().sum()) == pytest.approx(float(wave.abs().square().sum()), rel=1e-12)


@pytest.mark.parametrize("distance_m", [1e-6, 1e-4])
def test_compact_stencil_approaches_fresnel_and_plain_does_not(distance_m):
    """Compared at half the Nyquist frequency of x, with nothing along y."""
    wave = torch.exp(0.5j * np.pi * torch.arange(64, dtype=torch.float64))[None, None].repeat(1, 3, 1)
    exact = optics.propagate(
        wave, distance_m=distance_m, wavelength_m=WAVELENGTH_M, pixel_size_m=(PIXEL_M, PIXEL_M), kernel="fresnel"
    )
    errors = {
        stencil: relative(in_vacuum(wave, slice_thickness_m=distance_m, stencil=stencil, **XRAY), exact)
        for stencil in ("plain", "compact", "wide")
    }
    assert errors["wide"] < 0.2 * errors["compact"] < 0.2 * 0.3 * errors["plain"]


@pytest.mark.parametrize(("across", "missing"), [(0, 0.0), (6, 0.25)])
def test_wide_lacks_only_the_cross_term_of_an_inclined_wave(across, missing):
    """Exact along x alone; for waves inclined in both axes it lacks kd·sin²α·sin²β/4 and higher orders."""
    n, distance = 64, 40.0
    pixels = torch.arange(n, dtype=torch.float64)
    wave = torch.exp(2j * np.pi / n * (6 * pixels[None, :] + across * pixels[:, None]))[None]
    light = {"wavelength_m": 1.0, "pixel_size_m": (1.0, 1.0)}
    exact = optics.propagate(wave, distance_m=distance, **light)
    turned = in_vacuum(wave, slices=40, slice_thickness_m=1.0, stencil="wide", **light)
    paraxial = in_vacuum(wave, slices=40, slice_thickness_m=1.0, stencil="compact", **light)
    sine = 6 / n
    phase = float((turned / exact).angle().mean())
    assert phase == pytest.approx(missing * 2 * np.pi * distance * sine**4, abs=2e-4, rel=0.03)
    assert abs(phase) < 0.55 * abs(float((paraxial / exact).angle().mean()))


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
def test_pixels_below_half_a_wavelength_stay_stable_in_single_precision(stencil):
    """Beyond this, the systems of ``wide`` are no longer diagonally dominant."""
    wave = random(1, 32, 40)
    light = {"wavelength_m": 1.0, "pixel_size_m": 0.1, "slice_thickness_m": 0.01, "stencil": stencil}
    double = in_vacuum(wave, slices=50, **light)
    assert relative(in_vacuum(wave.to(torch.complex64), slices=50, **light), double) < 1e-4
    assert float(double.abs().square().sum()) == pytest.approx(float(wave.abs().square().sum()), rel=1e-9)


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
def test_a_large_field_turns_by_the_product_of_its_axes(stencil):
    """A field of 1.8 MB, solved in parts, against the stencil's factors applied in Fourier space."""
    wave, distance = random(1, 320, 350), 3.0
    after = in_vacuum(wave, slice_thickness_m=distance, stencil=stencil, **WIDE_LIGHT)
    angles, k = (2 * np.pi * np.fft.fftfreq(n) for n in wave.shape[-2:]), 2 * np.pi
    along_y, along_x = (
        factor(stencil, distance / 2 / (4 * k * pitch**2), angle, k * pitch) ** 2
        for angle, pitch in zip(angles, WIDE_LIGHT["pixel_size_m"], strict=True)
    )
    assert relative(after, np.fft.ifft2(np.fft.fft2(wave) * along_y[:, None] * along_x)) < 1e-12


# Boundaries


def beam(n, sine, waist=20.0):
    """A beam (1, 1, x) that propagates towards larger x; wavelength and pixel are 1."""
    x = centred(n, 1.0)
    return torch.as_tensor(np.exp(-((x / waist) ** 2) + 2j * np.pi * sine * x))[None, None]


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
@pytest.mark.parametrize(("axis", "sine"), [("y", 0.07), ("x", 0.07), ("x", 0.2)])
def test_a_beam_that_leaves_an_open_field_is_gone(stencil, axis, sine):
    n, way = 256, 300.0
    wave = beam(n, sine) if axis == "x" else beam(n, sine).mT
    light = {"slice_thickness_m": 2.5, "wavelength_m": 1.0, "pixel_size_m": 1.0, "stencil": stencil}
    slices = int(way / sine / 2.5)
    energy = float(wave.abs().square().sum())
    returned = in_vacuum(wave, slices=slices, boundary="periodic", **light)
    left = in_vacuum(wave, slices=slices, boundary="outgoing", **light)
    assert float(returned.abs().square().sum()) == pytest.approx(energy, rel=1e-9)
    assert float(left.abs().square().sum()) < 1e-4 * energy


def test_an_open_field_is_a_part_of_a_larger_one():
    """A spreading beam in a field of 128 pixels against the same one in 1024, away from the layer."""
    light = {"slice_thickness_m": 4.0, "wavelength_m": 1.0, "pixel_size_m": 1.0}
    small, large = (beam(n, 0.03, waist=6.0) for n in (128, 1024))
    large = in_vacuum(large, slices=300, **light)[0, 0, 448:576]
    seen = slice(20, 108)
    open_field = in_vacuum(small, slices=300, boundary="outgoing", **light)[0, 0]
    periodic = in_vacuum(small, slices=300, **light)[0, 0]
    assert relative(open_field[seen], large[seen]) < 0.02
    assert relative(periodic[seen], large[seen]) > 0.3


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
def test_a_plane_wave_passes_an_open_field_untouched(stencil):
    wave, plate = torch.ones(1, 40, 50, dtype=torch.complex128), torch.full((6, 40, 50), 1e-3, dtype=torch.float64)
    options = {"slice_thickness_m": 3.0, "stencil": stencil, "boundary": "outgoing", **WIDE_LIGHT}
    after = optics.finite_difference(wave, plate, 0 * plate, **options)
    assert relative(after, wave * np.exp(-2j * np.pi * 18e-3)) < 1e-12


@pytest.mark.parametrize("stencil", ["plain", "compact", "wide"])
def test_an_open_field_never_gains_energy(stencil):
    wave = random(2, 48, 60)
    energies = [wave.abs().square().sum()]
    for _ in range(20):
        wave = in_vacuum(wave, slice_thickness_m=3.0, stencil=stencil, boundary="outgoing", **WIDE_LIGHT)
        energies.append(wave.abs().square().sum())
    assert (np.diff(energies) < 0).all()


# Objects


@functools.cache
def disc(n, width, radius, fine=8):
    """Fraction (z, x) of each pixel inside a disc."""
    z, x = centred(n * fine, 1 / fine), centred(width * fine, 1 / fine)
    inside = (z[:, None] ** 2 + x**2) < radius**2
    return inside.reshape(n, fine, width, fine).mean((1, 3))


def cylinder_error(stencil, radius, delta, slice_pixels=1, boundary="periodic"):
    """Error of the scattered field of a cylinder at twice its radius; λ is one pixel."""
    width = 1024
    share = torch.as_tensor(disc(2 * radius, width, radius)).reshape(-1, slice_pixels, width).mean(1)[:, None]
    share = torch.cat([share, torch.zeros(radius // slice_pixels, 1, width, dtype=torch.float64)])
    start = torch.ones(1, 1, width, dtype=torch.complex128)
    light = {"wavelength_m": 1.0, "pixel_size_m": 1.0, "slice_thickness_m": float(slice_pixels)}
    after = optics.finite_difference(start, delta * share, 0 * share, stencil=stencil, boundary=boundary, **light)
    exact = cylinder(centred(width, 1.0), 2 * radius, radius, 1 - delta, 1.0)
    return relative(after[0, 0] - 1, exact - 1)


@pytest.mark.parametrize(
    ("stencil", "slice_pixels", "low", "high"),
    [("plain", 1, 0.13, 0.16), ("compact", 1, 0.06, 0.077), ("wide", 1, 0.0, 0.025), ("wide", 4, 0.0, 0.03)],
)
@pytest.mark.parametrize("boundary", ["periodic", "outgoing"])
def test_strong_thick_cylinder_against_partial_waves(stencil, slice_pixels, low, high, boundary):
    assert low < cylinder_error(stencil, 160, 0.01, slice_pixels, boundary) < high


@pytest.mark.parametrize(("radius", "delta"), [(80, 0.02), (120, 0.005)])
def test_each_stencil_is_better_than_the_one_before(radius, delta):
    plain, compact, wide = (cylinder_error(stencil, radius, delta) for stencil in ("plain", "compact", "wide"))
    assert 2 * wide < compact < 0.6 * plain


def test_wide_beats_fresnel_on_a_strong_sphere():
    """Against the angular spectrum; the remaining errors are the cross term XY/4, then the stencil."""
    n, radius = 128, 32
    at, z = torch.as_tensor(centred(n, 1.0)), torch.as_tensor(centred(2 * radius, 1.0))
    depth = radius + 0.5 - (z[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    delta, wave = 0.03 * depth.clamp(0, 1), torch.ones(1, n, n, dtype=torch.complex128)
    options = {"wavelength_m": 1.0, "pixel_size_m": 1.0, "slice_thickness_m": 1.0}
    reference = optics.multislice(wave, delta, 0 * delta, **options) - 1
    fresnel = optics.multislice(wave, delta, 0 * delta, kernel="fresnel", **options) - 1
    compact, wide = (
        optics.finite_difference(wave, delta, 0 * delta, stencil=stencil, **options) - 1
        for stencil in ("compact", "wide")
    )
    assert relative(wide, reference) < 0.07
    assert relative(wide, reference) < 0.65 * relative(fresnel, reference) < 0.65 * relative(compact, reference)


def test_single_precision_is_enough():
    wave, delta = random(1, 64, 64), 1e-5 * torch.rand(64, 64, 64, generator=torch.Generator().manual_seed(2)).double()
    for stencil in ("plain", "compact", "wide"):
        thick = {"slice_thickness_m": 2e-6, "stencil": stencil, **XRAY}
        double = optics.finite_difference(wave, delta, 0.1 * delta, **thick)
        single = optics.finite_difference(wave.to(torch.complex64), delta.float(), 0.1 * delta.float(), **thick)
        assert single.dtype == torch.complex64
        assert relative(single, double) < 1e-5


def test_a_field_of_one_row_is_a_sheet():
    row, delta = random(1, 1, 32), small_object(3, 1, 32)
    thick = {"slice_thickness_m": 3.0, "wavelength_m": 1.0, "pixel_size_m": 1.5}
    sheet = optics.finite_difference(row.repeat(1, 8, 1), delta.repeat(1, 8, 1), 0 * delta.repeat(1, 8, 1), **thick)
    assert relative(sheet, optics.finite_difference(row, delta, 0 * delta, **thick).repeat(1, 8, 1)) < 1e-12


def test_windows_and_absorber_reach_the_propagation():
    wave, planes, starts = random(2, 10, 12), small_object(3, 16, 17), [(0, 0), (6, 5)]
    absorber = torch.linspace(0.5, 1.0, 12, dtype=torch.float64).expand(10, 12)
    thick = {"slice_thickness_m": 3.0, **WIDE_LIGHT}
    seen = torch.stack([planes[:, y : y + 10, x : x + 12] for y, x in starts], 1)
    cut = optics.finite_difference(wave, seen, 0 * seen, absorber=absorber, **thick)
    windowed = optics.finite_difference(wave, planes, 0 * planes, windows=starts, absorber=absorber, **thick)
    assert relative(windowed, cut) < 1e-14
    assert relative(optics.finite_difference(wave, seen, 0 * seen, **thick), cut) > 0.1


# Gradient


@every_option
def test_dot_product_of_the_step_and_its_adjoint(stencil, boundary):
    """⟨Px, y⟩ = ⟨x, Pᴴy⟩ in one step; an open field's matrix is not symmetric."""
    options = {"slice_thickness_m": 3.0, "stencil": stencil, "boundary": boundary, **WIDE_LIGHT}
    x, y = random(2, 11, 13).requires_grad_(), random(2, 11, 13, seed=2)
    image = in_vacuum(x, **options)
    (adjoint,) = torch.autograd.grad(image, x, y)
    left, right = torch.vdot(y.flatten(), image.detach().flatten()), torch.vdot(adjoint.flatten(), x.detach().flatten())
    assert abs(left - right) < 1e-13 * float(image.detach().norm() * y.norm())
    if boundary == "outgoing":
        assert relative(in_vacuum(y.conj(), **options).conj(), adjoint) > 1e-3


@pytest.mark.parametrize(
    ("stencil", "boundary", "gradient"),
    [
        ("plain", "periodic", "stored"),
        ("compact", "periodic", "recomputed"),
        ("compact", "outgoing", "recomputed"),
        ("wide", "periodic", "checkpointed"),
        ("wide", "outgoing", "stored"),
    ],
)
def test_gradients_equal_differences(stencil, boundary, gradient):
    inputs = [random(2, 4, 5), small_object(3, 4, 5), small_object(3, 4, 5, seed=3)]
    inputs.append(torch.tensor([3.0, 2.0, 4.0], dtype=torch.float64))
    options = {"stencil": stencil, "boundary": boundary, "gradient": gradient, **WIDE_LIGHT}
    assert torch.autograd.gradcheck(
        lambda wave, delta, beta, thickness: optics.finite_difference(
            wave, delta, beta, slice_thickness_m=thickness, **options
        ),
        [tensor.requires_grad_() for tensor in inputs],
        fast_mode=True,
    )


@every_option
def test_gradient_in_single_precision(stencil, boundary):
    inputs = [random(2, 24, 20), small_object(6, 24, 20), small_object(6, 24, 20, seed=3)]
    inputs.append(torch.full((6,), 3.0, dtype=torch.float64))
    seed = random(2, 24, 20, seed=4)
    found = []
    for wave_type, real_type in ((torch.complex128, torch.float64), (torch.complex64, torch.float32)):
        wave, *rest, thickness = inputs
        typed = [wave.to(wave_type), *(tensor.to(real_type) for tensor in rest), thickness.clone()]
        for tensor in typed:
            tensor.requires_grad_()
        exit_wave = optics.finite_difference(
            *typed[:3], slice_thickness_m=typed[3], stencil=stencil, boundary=boundary, **WIDE_LIGHT
        )
        found.append(torch.autograd.grad(exit_wave, typed, seed.to(wave_type)))
    for double, single in zip(*found, strict=True):
        assert relative(single, double) < 1e-5
