"""The largest slice thickness for an accuracy, tested on random objects against many thin slices."""

import itertools

import pytest
import torch
from random_objects import OBJECTS, delta_of_phase

from bluesky_multislice import optics
from bluesky_multislice.measurement import depth_of_field_m

PLANES_A_DEPTH_OF_FIELD, N = 24, 96
LIGHTS = {
    "soft": {"wavelength_m": 2.4e-9, "pixel_size_m": 12e-9},
    "hard": {"wavelength_m": 1e-10, "pixel_size_m": 50e-9},
    "wide angle": {"wavelength_m": 1.0, "pixel_size_m": 1.2},
}
every_light = pytest.mark.parametrize("light", LIGHTS.values(), ids=LIGHTS.keys())
every_depth = pytest.mark.parametrize("depths_of_field", [2, 8])


def depth_of_field(light):
    return depth_of_field_m(light["pixel_size_m"], light["wavelength_m"])


def errors_of_slices(light, depths_of_field, radians, slices, *, kind="waves", feature=3, smooth_planes=0):
    """Errors of the scattered wave, without its mean, for each number of slices."""
    planes, length_m = depths_of_field * PLANES_A_DEPTH_OF_FIELD, depths_of_field * depth_of_field(light)
    pattern = OBJECTS[kind](planes, N, feature=feature)
    if smooth_planes:
        decay = torch.exp(-2 * (torch.pi * smooth_planes * torch.fft.fftfreq(planes, dtype=torch.float64)) ** 2)
        pattern = torch.fft.ifft(torch.fft.fft(pattern, dim=0) * decay[:, None, None], dim=0).real
    delta = delta_of_phase(pattern, radians, wavelength_m=light["wavelength_m"], length_m=length_m)

    def through(count):
        coarse = delta.unflatten(0, (count, -1)).mean(1)
        wave = torch.ones(1, N, N, dtype=torch.complex128)
        return optics.multislice(wave, coarse, 0 * coarse, slice_thickness_m=length_m / count, **light)

    fine = through(planes)
    return [float((through(count) - fine).norm() / (fine - fine.mean()).norm()) for count in slices]


@every_light
@every_depth
@pytest.mark.parametrize("accuracy", [0.2, 0.1, 0.05, 0.025])
def test_slices_keep_the_accuracy_that_was_asked_for(light, depths_of_field, accuracy):
    thickest = optics.thickest_slice_m(accuracy, depth_of_field_m=depth_of_field(light))
    share = round(thickest / depth_of_field(light) * PLANES_A_DEPTH_OF_FIELD)
    assert share / PLANES_A_DEPTH_OF_FIELD == pytest.approx(thickest / depth_of_field(light))
    slices = depths_of_field * PLANES_A_DEPTH_OF_FIELD // share
    (error,) = errors_of_slices(light, depths_of_field, 0.5, [slices])
    assert 0.8 * accuracy < error < accuracy


@every_light
@pytest.mark.parametrize("radians", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("kind", OBJECTS)
def test_error_falls_in_proportion_to_the_thickness_or_faster(light, radians, kind):
    errors = errors_of_slices(light, 4, radians, [8, 16, 32], kind=kind)
    assert all(thin < 0.6 * thick for thick, thin in itertools.pairwise(errors))


@every_light
def test_detail_along_the_beam_that_slices_follow_brings_second_order(light):
    errors = errors_of_slices(light, 4, 0.5, [16, 32], smooth_planes=8)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.15)


@every_light
def test_more_phase_and_sharper_edges_and_finer_detail_take_thinner_slices(light):
    weak, half, strong, stronger = (errors_of_slices(light, 4, radians, [4])[0] for radians in (0.05, 0.5, 1.5, 3.0))
    assert weak < half < strong < stronger
    assert strong / half == pytest.approx(2.2, rel=0.1)
    (sharp,) = errors_of_slices(light, 4, 0.5, [4], kind="squares")
    assert sharp / half == pytest.approx(4.6, rel=0.15)
    finer, coarser = (errors_of_slices(light, 4, 0.5, [4], feature=feature)[0] for feature in (2, 6))
    assert coarser < 0.3 * half < 0.3 * finer


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_thickness_is_in_proportion_to_accuracy_and_depth_of_field(factor):
    once = optics.thickest_slice_m(0.05, depth_of_field_m=2e-6)
    assert optics.thickest_slice_m(0.05 * factor, depth_of_field_m=2e-6) == pytest.approx(factor * once)
    assert optics.thickest_slice_m(0.05, depth_of_field_m=factor * 2e-6) == pytest.approx(factor * once)


def test_halo_grows_with_the_accuracy_and_with_how_far_light_walks():
    light = {"wavelength_m": 1e-10, "pixel_size_m": 1e-8}
    halos = [optics.halo_pixels(accuracy, distance_m=1e-4, **light) for accuracy in (0.2, 0.05, 0.01)]
    assert halos == sorted(set(halos))
    for option in ({"distance_m": 2e-4}, {"wavelength_m": 2e-10}, {"pixel_size_m": 1e-8 / 2**0.5}):
        assert optics.halo_pixels(0.05, **{"distance_m": 1e-4, **light, **option}) == pytest.approx(2 * halos[1], abs=1)
