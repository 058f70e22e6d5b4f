"""A field cut into tiles with a halo against the whole field."""

import itertools
import math

import pytest
import torch
from random_objects import OBJECTS, delta_of_phase

from bluesky_multislice import optics
from bluesky_multislice.errors import ScanError

LIGHT = {"wavelength_m": 1.0, "pixel_size_m": 4.0}
SLICE = {"slice_thickness_m": 6.0, **LIGHT}


def random(*shape, seed, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def wave_and_object(*shape, views=2, own=False):
    """A random wave (view, y, x) with random δ and β of ``shape`` (z, y, x)."""
    kept = (shape[0], views, *shape[1:]) if own else shape
    delta, beta = (0.02 * random(*kept, seed=seed).abs() for seed in (2, 3))
    return random(views, *shape[1:], seed=1, dtype=torch.complex128), delta, 0.2 * beta


def distance(found, expected):
    """Relative distance ‖a − b‖ / ‖b‖."""
    return float((found - expected).detach().norm() / expected.detach().norm())


def random_thick_object(kind, fresnel, radians):
    """Wave, δ and β of an object with features of three pixels, and the optics with √(λL) of ``fresnel`` pixels."""
    length_m = (fresnel * LIGHT["pixel_size_m"]) ** 2 / LIGHT["wavelength_m"]
    delta = delta_of_phase(OBJECTS[kind](8, 256), radians, wavelength_m=LIGHT["wavelength_m"], length_m=length_m)
    wave = torch.ones(1, 256, 256, dtype=torch.complex64)
    return (wave, delta.float(), torch.zeros_like(delta).float()), {"slice_thickness_m": length_m / 8, **LIGHT}


def error_of_tiles(parts, optics_of, **options):
    """Error of the scattered wave in tiles of 64 pixels."""
    whole = optics.multislice(*parts, **optics_of)
    tiled = optics.tiled_multislice(*parts, tiles=(4, 4), **options, **optics_of)
    return float((tiled - whole).norm() / (whole - whole.mean()).norm())


def halo_of(accuracy, optics_of):
    length_m = 8 * optics_of["slice_thickness_m"]
    return optics.halo_pixels(accuracy, distance_m=length_m, **LIGHT)


every_object = pytest.mark.parametrize("kind", OBJECTS)
weak_and_strong = pytest.mark.parametrize("radians", [0.3, 3.0])


@every_object
@weak_and_strong
@pytest.mark.parametrize(
    ("fresnel", "accuracies"), [(2, (0.1, 0.02, 0.005)), (4, (0.1, 0.02, 0.005)), (7, (0.1, 0.01)), (11, (0.1, 0.05))]
)
def test_the_halo_keeps_the_accuracy_that_was_asked_for(kind, radians, fresnel, accuracies):
    """From 0.7 to 22 depths of field."""
    parts, optics_of = random_thick_object(kind, fresnel, radians)
    for accuracy in accuracies:
        assert halo_of(accuracy, optics_of) < 64
        assert 0 < error_of_tiles(parts, optics_of, accuracy=accuracy) < accuracy


@pytest.mark.parametrize(("fresnel", "accuracy"), [(2, 0.005), (4, 0.05), (4, 0.01), (7, 0.02), (11, 0.1)])
def test_the_halo_is_not_wider_than_sharp_and_strong_objects_need(fresnel, accuracy):
    errors = []
    for radians in (0.3, 3.0):
        parts, optics_of = random_thick_object("squares", fresnel, radians)
        errors.append(error_of_tiles(parts, optics_of, halo=math.floor(0.6 * halo_of(accuracy, optics_of))))
    assert max(errors) > accuracy


@every_object
@weak_and_strong
def test_error_falls_with_the_halo(kind, radians):
    parts, optics_of = random_thick_object(kind, 6, radians)
    errors = [error_of_tiles(parts, optics_of, halo=halo) for halo in (0, 6, 12, 24, 48)]
    assert all(wide < 0.75 * narrow for narrow, wide in itertools.pairwise(errors))
    assert errors[0] > 0.2
    assert errors[-1] < 0.01


@every_object
@weak_and_strong
@pytest.mark.parametrize("fresnel", [3, 5, 6.5])
def test_the_bound_of_the_literature_is_safe_up_to_eight_depths_of_field(kind, radians, fresnel):
    assert fresnel**2 / 5.4 < 8
    parts, optics_of = random_thick_object(kind, fresnel, radians)
    assert error_of_tiles(parts, optics_of, halo=math.ceil(4 * fresnel)) < 0.02


def test_the_bound_of_the_literature_fails_beyond():
    parts, optics_of = random_thick_object("squares", 12, 0.3)
    assert error_of_tiles(parts, optics_of, halo=48) > 0.05


def test_one_tile_is_the_whole():
    parts = wave_and_object(5, 30, 28)
    assert torch.equal(optics.tiled_multislice(*parts, tiles=(1, 1), **SLICE), optics.multislice(*parts, **SLICE))


@pytest.mark.parametrize("tiles", [(2, 2), (3, 5), (4, 7), (1, 6), (30, 1), (7, 28)])
def test_tiles_that_see_everything_are_the_whole_however_they_divide_it(tiles):
    parts = wave_and_object(5, 30, 28)
    whole = optics.multislice(*parts, **SLICE)
    assert distance(optics.tiled_multislice(*parts, tiles=tiles, halo=30, **SLICE), whole) < 1e-14


@pytest.mark.parametrize("tiles", [(2, 3), (3, 4), (7, 5)])
def test_tiles_that_do_not_divide_the_field_put_every_pixel_where_it_was(tiles):
    parts = wave_and_object(5, 97, 113)
    whole, tiled = optics.multislice(*parts, **SLICE), optics.tiled_multislice(*parts, tiles=tiles, halo=24, **SLICE)
    assert 0 < distance(tiled, whole) < 0.01
    assert float((tiled - whole).abs().max()) < 0.1


def test_a_tile_knows_nothing_beyond_its_halo():
    """Tiles of 32 columns of 128 with a halo of 4: 40 columns, already a fast FFT length."""
    wave, delta, beta = wave_and_object(4, 16, 128)
    halved = {"tiles": (1, 4), "halo": 4, **SLICE}
    before = optics.tiled_multislice(wave, delta, beta, **halved)
    changed = []
    for column in (26, 27, 28, 29, 66, 67, 68, 69):
        other = delta.clone()
        other[1, :, column] += 0.01
        after = optics.tiled_multislice(wave, other, beta, **halved)
        changed.append(not torch.equal(after[..., 32:64], before[..., 32:64]))
    assert changed == [False, False, True, True, True, True, False, False]


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_the_field_stays_periodic(argument):
    """Tiles are periodic like the whole field, in wave, δ and β."""
    parts = list(wave_and_object(4, 12, 90))
    optics_of = {"tiles": (1, 3), "halo": 22, **SLICE}
    before = optics.tiled_multislice(*parts, **optics_of)
    parts[argument] = parts[argument].clone()
    parts[argument][..., 0] += 0.1
    changed = optics.tiled_multislice(*parts, **optics_of) - before
    whole = optics.multislice(*parts, **SLICE) - optics.multislice(*wave_and_object(4, 12, 90), **SLICE)
    assert distance(changed[..., 80:], whole[..., 80:]) < 0.1
    assert float(whole[..., 80:].norm()) > 0.01 * float(whole.norm())


@pytest.mark.parametrize("halo", [9, 30])
def test_each_view_may_have_its_own_object(halo):
    wave, delta, beta = wave_and_object(4, 30, 28, own=True)
    options = {"tiles": (2, 3), "halo": halo, **SLICE}
    together = optics.tiled_multislice(wave, delta, beta, **options)
    for view in range(2):
        alone = optics.tiled_multislice(wave[view : view + 1], delta[:, view], beta[:, view], **options)
        assert distance(together[view], alone[0]) < 1e-14


def test_windows_cut_the_object_for_each_view():
    wave, delta, beta = wave_and_object(4, 40, 44)
    wave, windows = wave[:, :30, :28], [(0, 0), (10, 7)]
    options = {"tiles": (2, 3), "halo": 9, **SLICE}
    together = optics.tiled_multislice(wave, delta, beta, windows=windows, **options)
    for view, (y, x) in enumerate(windows):
        cut = (slice(None), slice(y, y + 30), slice(x, x + 28))
        alone = optics.tiled_multislice(wave[view : view + 1], delta[cut], beta[cut], **options)
        assert distance(together[view], alone[0]) < 1e-14


@pytest.mark.parametrize(
    "option",
    [
        {"kernel": "fresnel"},
        {"absorber": optics.absorbing_margin((30, 28), 4, steps=5)},
        {"slice_thickness_m": [2.0, 9.0, 4.0, 6.0, 1.0]},
        {"wavelength_m": 1.5},
        {"pixel_size_m": (4.0, 2.5)},
    ],
    ids=lambda option: next(iter(option)),
)
def test_what_multislice_takes_reaches_every_tile(option):
    parts = wave_and_object(5, 30, 28)
    optics_of = {**SLICE, **option}
    whole = optics.multislice(*parts, **optics_of)
    assert distance(optics.tiled_multislice(*parts, tiles=(2, 3), halo=30, **optics_of), whole) < 1e-13
    assert distance(whole, optics.multislice(*parts, **SLICE)) > 1e-3


def test_the_halo_follows_the_pixel_of_each_axis():
    """Pixels twice as wide in x need a quarter of the halo; an explicit halo gives the same result."""
    parts = wave_and_object(5, 96, 96)
    optics_of = {"slice_thickness_m": 30.0, "wavelength_m": 1.0, "pixel_size_m": (4.0, 8.0)}
    halos = [optics.halo_pixels(0.05, wavelength_m=1.0, distance_m=150.0, pixel_size_m=pixel) for pixel in (4.0, 8.0)]
    assert halos == [5, 2]
    for tiles, halo in zip([(3, 1), (1, 3)], halos, strict=True):
        asked = optics.tiled_multislice(*parts, tiles=tiles, accuracy=0.05, **optics_of)
        assert torch.equal(asked, optics.tiled_multislice(*parts, tiles=tiles, halo=halo, **optics_of))
        assert not torch.equal(asked, optics.tiled_multislice(*parts, tiles=tiles, halo=halo + 6, **optics_of))


def test_tiles_keep_the_waves_that_they_are_told_to(monkeypatch):
    told = []

    def spy(*args, gradient, **options):
        told.append(gradient)
        return optics.multislice(*args, gradient=gradient, **options)

    monkeypatch.setattr("bluesky_multislice.optics.tiles.multislice", spy)
    optics.tiled_multislice(*wave_and_object(2, 12, 12), tiles=(2, 1), gradient="checkpointed", **SLICE)
    assert told == ["checkpointed"] * 2


@pytest.mark.parametrize("own", [False, True])
def test_gradients_equal_differences_of_the_tiled_function(own):
    parts = wave_and_object(2, 5, 6, own=own)
    thickness = torch.tensor([6.0, 4.0], dtype=torch.float64)
    inputs = [part.requires_grad_() for part in (*parts, thickness)]

    def through(wave, delta, beta, thickness):
        optics_of = {"tiles": (2, 3), "halo": 1, **LIGHT}
        return optics.tiled_multislice(wave, delta, beta, slice_thickness_m=thickness, **optics_of)

    assert torch.autograd.gradcheck(through, inputs, fast_mode=True)
    assert distance(through(*inputs), optics.multislice(*parts, slice_thickness_m=thickness, **LIGHT)) > 0.01


def test_gradients_are_near_those_of_the_whole():
    """As accurate as the wave, and exact if every tile contains the whole field."""
    parts = [part.requires_grad_() for part in wave_and_object(5, 64, 60)]

    def gradients(through, **options):
        exit_wave = through(*parts, **options, **SLICE)
        return torch.autograd.grad(exit_wave, parts, random(2, 64, 60, seed=9, dtype=torch.complex128))

    whole = gradients(optics.multislice)
    for halo, bound in ((4, 0.1), (16, 0.02), (64, 1e-13)):
        for ours, theirs in zip(gradients(optics.tiled_multislice, tiles=(3, 2), halo=halo), whole, strict=True):
            assert distance(ours, theirs) < bound


def test_single_precision_is_enough():
    wave, delta, beta = wave_and_object(16, 60, 50)
    options = {"tiles": (2, 2), "halo": 8, **SLICE}
    double = optics.tiled_multislice(wave, delta, beta, **options)
    single = optics.tiled_multislice(wave.to(torch.complex64), delta.float(), beta.float(), **options)
    assert single.dtype == torch.complex64
    assert distance(single, double) < 1e-5


@pytest.mark.parametrize("tiles", [(0, 2), (2, 13), (-1, 1)])
def test_more_tiles_than_pixels_or_none_are_refused(tiles):
    with pytest.raises(ScanError, match="fewer tiles"):
        optics.tiled_multislice(*wave_and_object(2, 12, 12), tiles=tiles, **SLICE)


def test_shapes_that_contradict_each_other_are_refused():
    wave, delta, beta = wave_and_object(2, 12, 12)
    with pytest.raises(ScanError, match="complex wave"):
        optics.tiled_multislice(wave, delta[..., :11], beta, **SLICE)


@pytest.mark.parametrize("absorbed", [False, True])
def test_a_row_of_tiles_computed_again_has_the_gradients_of_stored_waves(absorbed):
    parts = [part.requires_grad_() for part in wave_and_object(5, 30, 32)]
    mask = optics.absorbing_margin((30, 32), 4, steps=5) if absorbed else None

    def gradients(gradient):
        exit_wave = optics.tiled_multislice(*parts, tiles=(3, 2), halo=4, gradient=gradient, absorber=mask, **SLICE)
        return torch.autograd.grad(exit_wave, parts, random(2, 30, 32, seed=9, dtype=torch.complex128))

    for ours, theirs in zip(gradients("recomputed"), gradients("stored"), strict=True):
        assert torch.equal(ours, theirs)
