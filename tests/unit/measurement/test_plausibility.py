"""Values that a scan can hold but hardly means: each is refused or said."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import VOXEL_M, blank, hologram_geometry, pattern_scan

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import (
    angle_warnings,
    check_energy,
    energy_problem,
    pattern_warnings,
    position_warnings,
)
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe


@pytest.fixture(scope="module")
def patterns():
    return pattern_scan(angles=2)[0]


@pytest.mark.parametrize("energy_ev", [92.0, 700.0, 8000.0, 1.2e5])
def test_energies_of_x_rays_pass(energy_ev):
    assert energy_problem(energy_ev) is None
    check_energy(energy_ev, source="anywhere")


@pytest.mark.parametrize(
    ("energy_ev", "words"),
    [
        (6.2, "keV where eV belongs: 6200 eV"),
        (6.2e6, "thousand times too large: 6200 eV"),
        (6200 / 1.602176634e-19, "eV where joule belongs: 6200 eV"),
        (6.2 / 1.602176634e-19, "keV where joule belongs: 6200 eV"),
    ],
)
def test_an_energy_in_the_wrong_unit_is_recognised(energy_ev, words):
    with pytest.raises(ScanError, match=words) as caught:
        check_energy(energy_ev, source="start:energy_ev")
    assert "start:energy_ev" in caught.value.got


def test_an_energy_that_no_unit_explains_is_refused_without_a_guess():
    with pytest.raises(ScanError, match="not between") as caught:
        check_energy(1e-9, source="the file")
    assert "looks like" not in caught.value.got


def moved(scan, position_m):
    return replace(scan.geometry, position_m=np.asarray(position_m, float))


def test_overlapping_positions_pass(patterns):
    assert position_warnings(patterns.geometry) == []


@pytest.mark.parametrize("factor", [1e3, 1e6])
def test_positions_that_overlap_nowhere_are_refused_with_the_factor_that_looks_wrong(patterns, factor):
    apart = moved(patterns, factor * 2 * patterns.geometry.position_m)
    with pytest.raises(ScanError, match=r"(?s)must overlap.*divided by") as caught:
        position_warnings(apart)
    assert f"divided by {factor:g} they" in caught.value.got
    with pytest.raises(ScanError, match="must overlap"):
        make_plan(Recipe(ranks=1, device="cpu"), blank(apart))


def test_a_position_far_from_all_others_of_its_angle_is_said(patterns):
    position_m = patterns.geometry.position_m.copy()
    position_m[7] += 100 * VOXEL_M
    warnings = position_warnings(moved(patterns, position_m))
    assert warnings == ["1 views overlap with no other view of their angle, the first is view 7"]
    position_m[7] = position_m[32]  # overlaps, but with a view of another angle as well as with its own
    assert position_warnings(moved(patterns, position_m)) == []


def test_positions_that_hardly_differ_are_said(patterns):
    (warning,) = position_warnings(moved(patterns, 1e-3 * patterns.geometry.position_m))
    assert "check their unit" in warning


def test_one_position_per_angle_gives_a_warning(patterns):
    (warning,) = position_warnings(patterns.geometry.select(np.array([0, 25])))
    assert "one position per angle" in warning


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1.0, None),
        (np.pi / 180, "radians given as degrees"),
        (0.4, "63° only"),
        (180 / np.pi, "degrees given as radians"),
        (0.0, None),
    ],
)
def test_a_small_or_huge_range_of_angles_is_said(factor, words):
    geometry = hologram_geometry(angles=8)
    warnings = angle_warnings(replace(geometry, angle_rad=factor * geometry.angle_rad))
    assert words in warnings[0] if words else warnings == []


def test_what_is_odd_about_positions_and_angles_stays_in_the_plan():
    geometry = replace(hologram_geometry(angles=8), angle_rad=np.linspace(0, 1, 8))
    assert any("57.3° only" in note for note in make_plan(Recipe(ranks=1, device="cpu"), blank(geometry)).notes)


@pytest.mark.parametrize(("shift", "said"), [((0, 0), False), ((2, 2), False), ((4, 0), True), ((0, -5), True)])
def test_a_pattern_off_the_centre_is_said_with_its_offset(patterns, shift, said):
    mean = np.zeros((16, 16))
    mean[8 + shift[0] - 1 : 8 + shift[0] + 2, 8 + shift[1]] = 5
    warnings = pattern_warnings(patterns.geometry, mean)
    assert bool(warnings) is said
    if said:
        assert f"{shift[0]:+.1f} pixels in y and {shift[1]:+.1f} in x" in warnings[0]
    assert pattern_warnings(hologram_geometry(), mean) == []


@pytest.mark.parametrize(("shift", "said"), [((0, 0), False), ((0, 2), True), ((-2, 0), True)])
@pytest.mark.parametrize("ramp", [0, 1])
def test_a_pattern_off_its_known_probe_is_said_even_by_little(patterns, shift, said, ramp):
    """A probe that runs askew has its light off the centre, where it belongs."""
    askew = patterns.probe * np.exp(2j * np.pi * ramp / 16 * np.arange(16))
    mean = np.abs(np.fft.fftshift(np.fft.fft2(askew[0]))) ** 2
    warnings = pattern_warnings(patterns.geometry, np.roll(mean, shift, (0, 1)), askew)
    assert bool(warnings) is said
    if said:
        assert f"{shift[0]:+.1f} pixels in y and {shift[1]:+.1f} in x from the probe's" in warnings[0].replace(
            "-0.0", "+0.0"
        )
