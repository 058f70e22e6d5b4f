"""The level of the beam without the sample: flats tell it, and without flats the border of the frames must do."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import hologram_geometry, rebuild

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe

SIDE, DARK, BEAM = 16, 100.0, 1000.0


def slab(transmission, *, flats=True, angles=1):
    """A scan of a slab that covers the whole field, with a dark and two flats of an uneven beam."""
    beam = BEAM * (1 + 0.2 * np.linspace(-1, 1, SIDE)) * np.ones((SIDE, 1))
    views = [transmission * beam + DARK] * angles
    stored = np.array([*views, beam + DARK, beam + DARK, np.full((SIDE, SIDE), DARK)])
    darks_and_flats = {"flat_rows": [angles, angles + 1], "dark_rows": [angles + 2]} if flats else {}
    frames = Frames(stored, rows=np.arange(angles), **darks_and_flats)
    return Scan(hologram_geometry(n=SIDE, angles=angles), frames)


def transmission_of(solution, scan):
    voxel_m = make_plan(Recipe(ranks=1, device="cpu"), scan).grid.voxel_size_m[0]
    attenuation = 4 * np.pi / scan.geometry.beam.wavelength_m * voxel_m * np.asarray(solution.beta).sum(0)
    return float(np.exp(-attenuation[SIDE // 4 : -SIDE // 4, SIDE // 4 : -SIDE // 4]).mean())


@pytest.mark.parametrize("transmission", [1.0, 0.8])
def test_flats_tell_the_absorption_of_a_slab_that_fills_the_field(transmission):
    scan = slab(transmission)
    solution = rebuild(scan, epochs=30, held_back_every=0)
    assert transmission_of(solution, scan) == pytest.approx(transmission, rel=0.03)


def test_only_a_scan_without_flats_is_told_that_uniform_absorption_is_not_seen():
    def noted(scan):
        return any("no flats: the level of the beam" in note for note in make_plan(Recipe(device="cpu"), scan).notes)

    scan = slab(0.8, flats=False)
    assert noted(scan)
    assert not noted(slab(0.8))
    assert not noted(replace(scan, probe=np.ones((1, SIDE, SIDE), np.complex64)))
