"""A beam with structure: divided out by flats it leaves fringes, fitted with the volume it does not."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_scan import VOXEL_M, ball, blank, hologram_geometry, pattern_scan, rebuild, relative_error

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.optics import propagate
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import simulate_frames
from bluesky_multislice.reconstruction.start import empty_beam, probe_of_flats

N = 24
LIGHT = {"wavelength_m": 0.5e-9, "pixel_size_m": (VOXEL_M, VOXEL_M), "kernel": "angular_spectrum"}


def structured_beam():
    """A probe (1, y, x) with speckles of a few pixels, a fifth in amplitude."""
    noise = np.random.default_rng(4).normal(size=(2, N, N))
    smooth = np.stack([ndimage.gaussian_filter(part, 1.5, mode="wrap") for part in noise])
    real, imaginary = 0.2 * smooth / smooth.std()
    return (1 + real + 1j * imaginary)[None].astype(np.complex64)


def scan_with_flat(distances_m=(60e-9,)):
    geometry = hologram_geometry(n=N, angles=12 * len(distances_m))
    angles = np.repeat(np.arange(12) * np.pi / 12, len(distances_m))
    geometry = replace(geometry, angle_rad=angles, distance_m=np.tile(distances_m, 12))
    lit = Scan(geometry, blank(geometry).frames, structured_beam())
    frames = [simulate_frames(lit, part, 0.1 * part, voxel_size_m=(VOXEL_M,) * 3) for part in (ball(N), 0 * ball(N))]
    seen, empty = (np.array(list(each)) for each in frames)
    flats = empty[: len(distances_m)]
    place = np.concatenate([geometry.distance_m, distances_m])
    rows = np.arange(len(seen))
    flat_rows = (len(seen) + np.arange(len(flats))).tolist()
    stored = 100 * np.concatenate([seen, flats])
    return Scan(geometry, Frames(stored, rows=rows, flat_rows=flat_rows, detector_position_m=place))


def error_of(scan, **recipe):
    solution = rebuild(scan, epochs=12, total_variation=0.0, slices=12, **recipe)
    return relative_error(solution.delta, ball(N)), solution


def test_a_structured_beam_is_fitted_with_the_volume_where_dividing_leaves_its_fringes():
    scan = scan_with_flat()
    divided, solution = error_of(scan)
    assert float(solution.probe.abs().std()) < 1e-6
    joint, solution = error_of(scan, illumination="joint")
    assert joint < 0.75 * divided
    assert solution.r_factor < 0.7 * error_of(scan, illumination="joint", refine_probe=False)[1].r_factor
    # The flat is data: without it the beam would take over what all angles see of the sample.
    beam = propagate(solution.probe, distance_m=60e-9, **LIGHT)
    n = beam.shape[-1]
    inside = slice((n - N) // 2, (n - N) // 2 + N)
    flat = scan.frames.undivided().flat(0)
    assert relative_error(beam[0, inside, inside].abs().square(), flat) < 0.1


def test_the_first_illumination_is_the_flat_of_the_shortest_distance_without_its_dead_pixels():
    scan = scan_with_flat((40e-9, 60e-9))
    scan.frames.source[-2, 5, 7] = 0
    scan = replace(scan, frames=scan.frames.undivided())
    plan = make_plan(Recipe(illumination="joint", ranks=1), scan)
    probe = probe_of_flats(scan, plan, 2.0)
    back = propagate(probe, distance_m=40e-9, **LIGHT)
    n = back.shape[-1]
    inside = slice((n - N) // 2, (n - N) // 2 + N)
    seen, flat = back[0, inside, inside].abs().square().numpy(), scan.frames.flat(0) / 2
    assert (flat[5, 7], seen[5, 7]) == (0, pytest.approx(seen[5, 6], rel=0.5))
    np.testing.assert_allclose(seen[scan.frames.mask], flat[scan.frames.mask], rtol=1e-3)
    assert empty_beam(scan, plan, 2.0, torch.device("cpu")).amplitude.shape == (2, N, N)


@pytest.mark.parametrize(
    ("scan", "illumination", "words"),
    [
        (blank(hologram_geometry()), "divided", "without flats"),
        (blank(hologram_geometry()), "joint", "without flats"),
        (pattern_scan(angles=2)[0], "joint", "needs full-field holograms"),
        (scan_with_flat(), "joint", "coarser frames"),
    ],
)
def test_an_illumination_that_cannot_be_fitted_is_refused(scan, illumination, words):
    if words.startswith("holograms"):
        frames = Frames(scan.frames.source, rows=np.arange(scan.geometry.views), flat_rows=[0])
        scan = replace(scan, frames=frames)
    with pytest.raises(PlanError, match=words):
        make_plan(Recipe(illumination=illumination, ranks=1, coarse_levels=int("coarser" in words)), scan)
