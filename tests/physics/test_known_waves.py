"""Band limit and absorbing margin: light that would come around the field does not, and all else stays as it is."""

import numpy as np
import pytest
import torch
from known_answers import centred, slit

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError

WAVELENGTH_M, PIXEL_M, N = 1e-10, 50e-9, 512
LIGHT = {"wavelength_m": WAVELENGTH_M, "pixel_size_m": (PIXEL_M, PIXEL_M)}
kernels = pytest.mark.parametrize("kernel", ["angular_spectrum", "fresnel"])


def distance(field, reference):
    """Relative distance ‖a − b‖ / ‖b‖."""
    field, reference = np.asarray(field), np.asarray(reference)
    return np.linalg.norm(field - reference) / np.linalg.norm(reference)


def behind_a_slit(n, z, kernel, **options):
    wave = torch.as_tensor((np.abs(centred(n, PIXEL_M)) < 16 * PIXEL_M).astype(complex))[None]
    return optics.propagate(wave, distance_m=z, kernel=kernel, **LIGHT, **options)[0].numpy()


@kernels
@pytest.mark.parametrize("fields", [2, 4])
def test_band_limit_takes_away_the_light_that_comes_around(kernel, fields):
    """Light at the Nyquist frequency moves sideways by that many fields and comes around into the middle half."""
    z = fields * N * PIXEL_M * 2 * PIXEL_M / WAVELENGTH_M
    middle = slice(N // 4, -N // 4)
    wide = behind_a_slit(8 * N, z, kernel)[(8 * N - N) // 2 :][:N][middle]
    exact = slit(centred(N, PIXEL_M), 32 * PIXEL_M, z, WAVELENGTH_M)[middle]
    around = behind_a_slit(N, z, kernel)[middle]
    limited = behind_a_slit(N, z, kernel, band_limit=True)[middle]
    assert min(distance(around, exact), distance(around, wide)) > 0.1
    assert max(distance(limited, exact), distance(limited, wide)) < 3e-3


@kernels
@pytest.mark.parametrize("pixel", [0.3, 4.0])
def test_band_limit_changes_nothing_where_sampling_is_fine(kernel, pixel):
    """Evanescent waves (pixels below half a wavelength) included."""
    wave = torch.randn(1, 48, 37, dtype=torch.complex128, generator=torch.Generator().manual_seed(1))
    way = {"distance_m": pixel, "wavelength_m": 1.0, "pixel_size_m": (pixel, 2 * pixel), "kernel": kernel}
    assert torch.equal(optics.propagate(wave, band_limit=True, **way), optics.propagate(wave, **way))


@kernels
@pytest.mark.parametrize("z", [110.0, -110.0, 500.0])
def test_band_ends_where_the_phase_turns_by_pi_a_sample(kernel, z):
    """Along an axis, against differences of the phase itself."""
    n, way = 200, {"wavelength_m": 1.0, "pixel_size_m": (0.6, 0.7), "kernel": kernel}
    rate = optics.phase_rate((n, n), **way).imag * z
    band = optics.sampled_band((n, n), distance_m=z, **way)
    for line, inside in ((rate[: n // 2, 0], band[: n // 2, 0]), (rate[0, : n // 2], band[0, : n // 2])):
        turn = (line[2:] - line[:-2]).abs() / 2
        assert 2 < inside.sum() < n // 2
        assert int((inside[1:-1] ^ (turn <= torch.pi)).sum()) <= 1


@kernels
@pytest.mark.parametrize("z", [3.0, -3.0])
def test_phase_rate_is_what_the_propagator_is_made_of(kernel, z):
    way = {"wavelength_m": 1.0, "pixel_size_m": (0.4, 1.5), "kernel": kernel}
    rate, step = optics.phase_rate((12, 13), **way), 1e-6
    after, before = (optics.propagator((12, 13), distance_m=z + part, **way) for part in (step, -step))
    slope = rate * optics.propagator((12, 13), distance_m=z, **way)
    if z < 0:
        slope = torch.complex(-rate.real, rate.imag) * optics.propagator((12, 13), distance_m=z, **way)
    assert distance((after - before) / (2 * step), slope) < 1e-8
    assert bool((rate.real < 0).any()) == (kernel == "angular_spectrum")


def tilted_beam(n, turns):
    """A Gaussian beam in the middle, turning ``turns`` times over the field in x."""
    x = centred(n, 1.0)
    envelope = np.exp(-((x[:, None] / (n / 16)) ** 2) - (x / (n / 16)) ** 2)
    return torch.as_tensor(envelope * np.exp(2j * np.pi * turns * x / n))[None]


@pytest.mark.parametrize("rounds", [0.7, 1.0, 1.8, 3.0])
@pytest.mark.parametrize("steps", [24, 96])
def test_a_tilted_beam_leaves_through_the_margin(rounds, steps):
    """It goes ``rounds`` times around the field: without a margin it is there again, with one it is not."""
    n, width, turns, wavelength = 128, 16, 20, 0.1
    thickness = rounds * n / steps / (wavelength * turns / n)
    vacuum, inside = torch.zeros(steps, n, n, dtype=torch.float64), slice(width, n - width)
    optics_of = {"wavelength_m": wavelength, "pixel_size_m": 1.0, "slice_thickness_m": thickness, "kernel": "fresnel"}

    def after(absorber):
        wave = optics.multislice(tilted_beam(n, turns), vacuum, vacuum, absorber=absorber, **optics_of)
        return wave[0, inside, inside]

    start = float(tilted_beam(n, turns).abs().square().sum())
    around, left = after(None), after(optics.absorbing_margin((n, n), width, steps=steps))
    assert float(around.abs().square().sum()) > (0.05 if rounds == 0.7 else 0.5) * start
    assert float(left.abs().square().sum()) < 1e-3 * start


def test_margin_reflects_little():
    """A beam on its way out, just gone: nothing of it goes the other way."""
    n, width, turns, steps = 256, 32, 38, 64
    light = {"wavelength_m": 0.1, "pixel_size_m": (1.0, 1.0), "kernel": "fresnel"}
    thickness = 0.75 * n / steps / (0.1 * turns / n)
    wave, mask = tilted_beam(n, turns), optics.absorbing_margin((n, n), width, steps=steps)
    start = float(wave.abs().square().sum())
    for _ in range(steps):
        wave = optics.propagate(wave * mask, distance_m=thickness, **light)
    back = torch.fft.fft2(wave, norm="ortho")[0][:, n // 2 :]
    assert float(back.abs().square().sum()) < 1e-5 * start


def test_margin_leaves_the_inside_alone_and_falls_to_the_rim():
    mask = optics.absorbing_margin((40, 61), 8, steps=30)
    assert torch.equal(mask[8:-8, 8:-8], torch.ones(24, 45, dtype=torch.float64))
    assert torch.equal(mask, mask.flip(0, 1))
    row = mask[20, :9]
    assert bool((row.diff() > 0).all())
    assert 0 < float(row[0]) < 0.9
    assert torch.equal(optics.absorbing_margin((1, 61), 8, steps=30)[0], mask[20])
    assert torch.allclose(optics.absorbing_margin((40, 61), 8, steps=60) ** 2, mask)


@pytest.mark.parametrize(("shape", "width", "steps"), [((16, 40), 8, 4), ((40, 40), 0, 4), ((40, 40), 8, 0)])
def test_margins_that_make_no_sense_are_refused(shape, width, steps):
    with pytest.raises(ScanError, match="margin"):
        optics.absorbing_margin(shape, width, steps=steps)
