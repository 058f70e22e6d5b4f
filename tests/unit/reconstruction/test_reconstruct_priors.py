"""Fidelities, regularisers, bounds and the shell correlation of two halves, through the whole reconstruction."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import VOXEL_M, ball, hologram_scan, pattern_scan, rebuild, relative_error

from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import add_photon_noise, reconstruct


@pytest.fixture(scope="module")
def few_photons():
    """The little ball from 32 angles with 5 photons a pixel."""
    clean = hologram_scan(angles=32)
    frames = clean.frames.read(np.arange(32))
    return Scan(clean.geometry, Frames(add_photon_noise(frames, scale=5, seed=0)))


def result_of(scan, **recipe):
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh)


@pytest.mark.parametrize("fidelity", ["amplitude", "poisson", "intensity"])
def test_every_fidelity_recovers_noiseless_frames_with_the_same_step(fidelity):
    assert relative_error(rebuild(hologram_scan(), fidelity=fidelity).delta, ball()) < 0.75  # 0.70 to 0.71


def test_poisson_beats_amplitude_where_photons_are_few(few_photons):
    errors = {
        name: relative_error(
            rebuild(few_photons, fidelity=name, total_variation=0.05, step=0.5, epochs=20, held_back_every=6).delta,
            ball(),
        )
        for name in ("amplitude", "poisson")
    }
    assert errors["poisson"] < 0.9 * errors["amplitude"]


def test_l1_takes_matter_away():
    free, sparse = (
        rebuild(hologram_scan(), l1=weight, start="empty", epochs=20).delta.abs().mean() for weight in (0.0, 0.05)
    )
    assert float(sparse) < 0.8 * float(free)


def test_smoothness_draws_the_slices_of_one_angle_together(few_photons):
    scan = Scan(few_photons.geometry.select(np.arange(1)), Frames(few_photons.frames.read(np.arange(1))))
    rough, smooth = (
        rebuild(scan, depth_um=0.05, slices=4, epochs=20, smoothness_z=weight).delta for weight in (0.0, 10.0)
    )
    assert float(smooth.diff(dim=0).square().mean()) < 0.5 * float(rough.diff(dim=0).square().mean())


def test_total_variation_along_z_counts_by_its_factor(few_photons):
    weak, strong = (
        rebuild(few_photons, total_variation=0.02, total_variation_z=factor, epochs=15).delta.diff(dim=0).abs().mean()
        for factor in (0.0, 3.0)
    )
    assert float(strong) < 0.7 * float(weak)


def test_total_variation_weighs_most_in_the_first_epoch(few_photons):
    rough, smooth = (
        rebuild(few_photons, total_variation=0.01, total_variation_first=factor, epochs=2).delta.diff(dim=2)
        for factor in (1.0, 30.0)
    )
    assert float(smooth.abs().mean()) < 0.7 * float(rough.abs().mean())


def test_total_variation_flattens_what_lies_above_its_floor(few_photons):
    uneven, flat = (
        rebuild(few_photons, total_variation=0.02, total_variation_floor=floor).delta.diff(dim=2).abs()
        for floor in (10.0, 0.1)
    )
    assert float(flat.median()) < 0.6 * float(uneven.median())  # 0.50 was measured
    assert float(flat.max()) > 0.9 * float(uneven.max()), "edges stay"


def test_beta_stays_between_its_bounds():
    solution = rebuild(hologram_scan(), beta_over_delta_min=0.02, beta_over_delta_max=0.05, epochs=5)
    delta, beta = solution.delta.numpy(), solution.beta.numpy()
    assert (beta >= 0.0199 * delta).all()
    assert (beta <= 0.0501 * delta).all()
    free = rebuild(hologram_scan(), epochs=5)
    assert (free.beta > 0.06 * free.delta).any()


def test_nothing_lies_outside_the_cylinder():
    z, x = np.meshgrid(*(np.arange(16) - 7.5,) * 2, indexing="ij")
    outside = z**2 + x**2 > 64
    free, kept = (
        rebuild(hologram_scan(), support=where, epochs=5).delta.numpy().transpose(1, 0, 2)[:, outside]
        for where in ("everywhere", "cylinder")
    )
    assert free.any()
    assert not kept.any()


def test_halves_of_a_scan_agree_down_to_a_few_voxels():
    scan, _ = pattern_scan()
    result = result_of(scan, shell_correlation=True, epochs=8, held_back_every=10)
    agreement = result.shell_correlation
    assert 2 * VOXEL_M <= agreement.resolution_m < 6 * VOXEL_M
    assert (agreement.correlation[:3] > 0.9).all()
    np.testing.assert_allclose(agreement.frequency_per_m, np.arange(1, 15) / (28 * VOXEL_M))
    alone = result_of(scan, epochs=8, held_back_every=10)
    assert alone.shell_correlation is None
    assert relative_error(result.solution.delta, alone.solution.delta) < 1e-3


def test_noise_makes_the_halves_agree_less(few_photons):
    noisy = result_of(few_photons, shell_correlation=True, epochs=5).shell_correlation
    clean = result_of(hologram_scan(angles=32), shell_correlation=True, epochs=5).shell_correlation
    assert clean.correlation.mean() > noisy.correlation.mean() + 0.1


def test_slices_of_one_angle_are_compared_by_rings():
    scan, _ = pattern_scan(angles=1)
    agreement = result_of(scan, depth_um=0.028, shell_correlation=True, epochs=5).shell_correlation
    assert len(agreement.correlation) == 14


def test_shells_are_those_of_the_pixel_that_was_refined():
    scan, _ = pattern_scan(angles=2)
    moved = replace(scan, geometry=replace(scan.geometry, distance_m=1.05 * scan.geometry.distance_m))
    result = result_of(moved, shell_correlation=True, epochs=2, refine={"quantities": ("distance",)})
    voxel_m = result.grid.voxel_size_m[1]
    assert abs(voxel_m / result.plan.grid.voxel_size_m[1] - 1) > 1e-4
    shells = result.plan.grid.shape[1] // 2
    np.testing.assert_allclose(
        result.shell_correlation.frequency_per_m, np.arange(1, shells + 1) / (2 * shells * voxel_m), rtol=1e-6
    )
