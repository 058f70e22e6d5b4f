"""A reconstruction starts from a former result: on the same grid at its misfit, on others far below an empty start."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
from small_scan import VOXEL_M, blank, hologram_geometry, hologram_scan, pattern_scan, relative_error

from bluesky_multislice.errors import PlanError
from bluesky_multislice.files import read_former, write_result
from bluesky_multislice.measurement import Beam, Frames
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe, Refine
from bluesky_multislice.reconstruction import reconstruct

STILL = {"epochs": 1, "step": 1e-3, "held_back_every": 0}
"""A fit that stays at its initial guess, so that its first misfit is that of the guess."""


def result_of(scan, **recipe):
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), scan)
    with join_mesh("cpu") as mesh:
        return reconstruct(scan, plan, mesh)


def first_misfit(result):
    return result.solution.history[0].loss


def misfit_of(result):
    return result.solution.history[result.solution.best_epoch - 1].loss


def stored(folder, result, **provenance):
    write_result(folder / "volume.h5", result, provenance=provenance)
    return read_former(folder / "volume.h5")


def changed(former, **values):
    return replace(former, **values)


@pytest.fixture(scope="module")
def holograms():
    return hologram_scan()


@pytest.fixture(scope="module")
def patterns():
    return pattern_scan(angles=4)[0]


@pytest.fixture(scope="module")
def of_holograms(holograms, tmp_path_factory):
    result = result_of(holograms, epochs=10, held_back_every=0)
    return result, stored(tmp_path_factory.mktemp("holograms"), result)


@pytest.fixture(scope="module")
def of_patterns(patterns, tmp_path_factory):
    result = result_of(patterns, epochs=4, held_back_every=0, probe_modes=2)
    return result, stored(tmp_path_factory.mktemp("patterns"), result)


def continued(scan, former, **recipe):
    return result_of(replace(scan, former=former), **(STILL | recipe))


@pytest.mark.parametrize("technique", ["holograms", "patterns"])
def test_on_the_same_grid_it_starts_at_the_misfit_of_the_result(technique, request):
    scan, (result, former) = request.getfixturevalue(technique), request.getfixturevalue(f"of_{technique}")
    found = continued(scan, former)
    assert first_misfit(found) < 1.1 * misfit_of(result)
    assert first_misfit(found) < 0.2 * first_misfit(result_of(scan, **STILL, start="empty"))
    assert relative_error(found.solution.delta, result.solution.delta) < 0.02
    assert relative_error(found.solution.probe, result.solution.probe) < 0.02
    assert found.start == f"former result {former.name}"
    assert len(found.solution.probe) == len(result.solution.probe)


@pytest.mark.parametrize("recipe", [{"oversampling": 2}, {"slices": 5}, {"depth_um": 12e-3}, {"coarse_levels": 1}])
def test_holograms_on_another_grid_start_far_below_an_empty_volume(holograms, of_holograms, recipe):
    found = continued(holograms, of_holograms[1], **recipe)
    assert first_misfit(found) < 0.2 * first_misfit(result_of(holograms, **STILL, start="empty", **recipe))


def test_patterns_of_another_size_and_exposure_start_far_below_an_empty_volume(patterns, of_patterns):
    """The central part of brighter patterns: a probe on pixels that are coarser by 16/12."""
    cut = patterns.frames.read(np.arange(patterns.geometry.views))[:, 2:14, 2:14]
    detector = replace(patterns.geometry.detector, shape=(12, 12))
    geometry = replace(patterns.geometry, detector=detector)
    scan = replace(patterns, geometry=geometry, frames=Frames(50 * cut), probe=None)
    found = continued(scan, of_patterns[1], slices=9)
    assert first_misfit(found) < 0.3 * first_misfit(result_of(scan, **STILL, slices=9))


@pytest.mark.parametrize("binned", ["sum", "mean"])
def test_binned_holograms_start_far_below_an_empty_volume(holograms, of_holograms, binned):
    frames = holograms.frames.read(np.arange(8)).reshape(8, 8, 2, 8, 2)
    frames = frames.sum((2, 4)) if binned == "sum" else frames.mean((2, 4))
    detector = replace(holograms.geometry.detector, shape=(8, 8), pixel_size_m=(2 * VOXEL_M, 2 * VOXEL_M))
    scan = replace(holograms, geometry=replace(holograms.geometry, detector=detector), frames=Frames(frames))
    finer = continued(scan, of_holograms[1], oversampling=2)
    empty = result_of(scan, **STILL, start="empty", oversampling=2)
    assert first_misfit(finer) < 0.2 * first_misfit(empty)


@pytest.mark.parametrize("modes", [1, 2, 3])
def test_modes_of_the_probe_are_left_out_or_added(patterns, of_patterns, modes):
    probe, former = of_patterns[0].solution.probe, of_patterns[1]
    found = continued(patterns, former, probe_modes=modes).solution.probe
    assert len(found) == modes
    assert relative_error(found[0].abs(), probe[0].abs()) < 0.2
    assert float(found.abs().square().sum()) == pytest.approx(float(probe.abs().square().sum()), rel=0.05)


def test_positions_and_refined_geometry_come_back(patterns, of_patterns):
    random = np.random.default_rng(5)
    position_m = patterns.geometry.position_m + 0.3 * VOXEL_M * random.normal(size=(patterns.geometry.views, 2))
    refined = {
        "positions": position_m - patterns.geometry.position_m,
        "angle": np.float32([0.01, -0.02, 0.005, 0.005]),
        "tilt": np.float32([0.02, -0.01]),
        "intensity": np.linspace(-0.1, 0.1, 4, dtype=np.float32),
        "background": np.float32([0.5]),
    }
    former = changed(of_patterns[1], position_m=position_m, refined=refined)
    held = continued(patterns, former)
    np.testing.assert_allclose(held.position_m, position_m, atol=1e-3 * VOXEL_M)
    for name in ("angle", "tilt", "intensity", "background"):
        np.testing.assert_allclose(np.ravel(held.solution.differences[name]), np.ravel(refined[name]), rtol=1e-5)
    (note,) = [note for note in held.plan.notes if note.startswith("starts from")]
    assert note.endswith("volume, probe, positions, intensity, angle, tilt, background")
    on = continued(patterns, former, refine=Refine(quantities=("positions", "angle"), strength=1e-3))
    np.testing.assert_allclose(on.solution.differences["angle"], refined["angle"], atol=1e-3)
    assert (on.solution.differences["angle"].numpy() != refined["angle"]).any()
    np.testing.assert_allclose(on.position_m, position_m, atol=0.1 * VOXEL_M)


def test_other_views_keep_their_own_geometry_and_a_note_says_so(patterns, of_patterns):
    random = np.random.default_rng(6)
    former = changed(of_patterns[1], refined={"angle": np.full(4, 0.1), "positions": np.ones((100, 2))})
    moved = patterns.geometry.position_m + 0.5 * VOXEL_M * random.normal(size=(100, 2))
    scan = replace(patterns, geometry=replace(patterns.geometry, position_m=moved), former=former)
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    assert plan.from_former == ("volume", "probe")
    assert "not taken over from the former result: positions, angle: the views differ" in plan.notes
    part = replace(blank(patterns.geometry.select(np.arange(75))), former=former)
    assert make_plan(Recipe(ranks=1), part).from_former == ("volume", "probe")


def test_a_refined_distance_and_a_slice_spacing_do_not_move_the_volume_twice(patterns, of_patterns):
    """The result's voxels contain both; the model that holds them does not."""
    result, former = of_patterns
    scale = 1.02
    distance = np.float32([0.02 * patterns.geometry.distance_m[0]])
    grid = replace(former.grid, voxel_size_m=tuple(scale * size for size in former.grid.voxel_size_m))
    found = continued(patterns, changed(former, grid=grid, refined={"distance": distance}))
    np.testing.assert_allclose(found.solution.differences["distance"], distance, rtol=1e-5)
    np.testing.assert_allclose(found.grid.voxel_size_m, grid.voxel_size_m, rtol=1e-6)
    assert relative_error(found.solution.delta, result.solution.delta) < 0.02


def one_angle(patterns):
    return replace(
        patterns,
        geometry=patterns.geometry.select(np.arange(25)),
        frames=Frames(patterns.frames.read(np.arange(25))),
    )


@pytest.mark.parametrize("depth_um", [28e-3, 14e-3, None])
def test_one_angle_keeps_its_projected_phase_on_other_slices(patterns, tmp_path, depth_um):
    scan = one_angle(patterns)
    result = result_of(scan, epochs=3, depth_um=28e-3, slices=2, held_back_every=0, probe_modes=1)
    former = stored(tmp_path, result)
    found = continued(scan, former, depth_um=depth_um, slices=5 if depth_um else None)
    projected = [each.solution.delta.sum(0) * each.grid.voxel_size_m[0] for each in (result, found)]
    assert relative_error(projected[1], projected[0]) < 0.02
    assert bool([note for note in found.plan.notes if "compressed" in note]) == (depth_um != 28e-3)


def test_variations_of_the_probe_come_back(patterns, tmp_path):
    scan = one_angle(patterns)
    result = result_of(scan, epochs=5, probe_variations=2, held_back_every=0, probe_modes=1)
    assert float(result.solution.differences["variation_of_view"].abs().max()) > 0
    found = continued(scan, stored(tmp_path, result), probe_variations=3)
    assert first_misfit(found) < 1.1 * misfit_of(result)


def test_searches_that_the_result_makes_needless_are_skipped_and_said(of_holograms, of_patterns, patterns):
    scan = blank(hologram_geometry(angles=48))
    geometry = scan.geometry
    views = np.column_stack([geometry.angle_rad, geometry.distance_m, geometry.position_m])
    former = changed(of_holograms[1], views=views, position_m=geometry.position_m)
    cold, warm = (make_plan(Recipe(ranks=1), replace(scan, former=each)) for each in (None, former))
    assert (cold.align, cold.find_axis, cold.start) == (True, True, "thin_sample")
    assert (warm.align, warm.find_axis) == (False, False)
    (note,) = [note for note in warm.notes if note.startswith("not searched")]
    assert note.endswith("gives them: thin-sample initial volume, alignment, rotation axis")
    coarse = make_plan(Recipe(ranks=1, coarse_levels=1), replace(scan, former=former))
    assert coarse.earlier == ()
    assert any("preliminary fits" in note for note in coarse.notes)
    asked = make_plan(Recipe(ranks=1, align=True), replace(scan, former=former))
    assert (asked.align, asked.find_axis) == (True, False)
    elsewhere = replace(former, views=views + np.array([0, 0, 0, 3 * VOXEL_M]))
    assert make_plan(Recipe(ranks=1), replace(scan, former=elsewhere)).align
    single = one_angle(patterns)
    modes = changed(of_patterns[1], views=of_patterns[1].views[:25], position_m=of_patterns[1].position_m[:25])
    plan = make_plan(Recipe(ranks=1), replace(single, former=modes))
    assert (plan.probe_modes, plan.modes_by_validation) == (2, False)


def test_another_part_of_the_detector_leaves_its_probe(of_patterns, patterns):
    former = changed(of_patterns[1], frames={"centre": "auto"})
    plan = make_plan(Recipe(ranks=1), replace(patterns, former=former))
    assert "probe" not in plan.from_former
    (note,) = [note for note in plan.notes if "frames.region or frames.centre differ" in note]
    assert "probe" in note
    recentred = make_plan(Recipe(ranks=1, frames={"centre": "auto"}), replace(patterns, former=former))
    assert "probe" in recentred.from_former


def test_energies_are_converted_or_refused(holograms, of_holograms):
    result, former = of_holograms
    scan = replace(holograms, geometry=replace(holograms.geometry, beam=Beam(1.1 * former.wavelength_m)))
    found = continued(scan, former)
    assert relative_error(found.solution.delta, 1.21 * result.solution.delta) < 0.02
    assert relative_error(found.solution.beta, 1.4641 * result.solution.beta) < 0.02
    assert [note for note in found.plan.notes if "δ ∝ E⁻²" in note]
    scan = replace(holograms, geometry=replace(holograms.geometry, beam=Beam(1.5 * former.wavelength_m)))
    with pytest.raises(PlanError, match="20%"):
        continued(scan, former)


def test_results_of_something_else_are_refused(holograms, patterns, of_holograms, of_patterns):
    with pytest.raises(PlanError, match="own technique"):
        continued(holograms, of_patterns[1])
    with pytest.raises(PlanError, match="what that angle sees"):
        continued(one_angle(patterns), of_patterns[1])
    former = of_holograms[1]
    far = changed(former, grid=replace(former.grid, center_m=(0.0, 100 * VOXEL_M, 0.0)))
    with pytest.raises(PlanError, match="a part of the volume"):
        continued(holograms, far)
    with pytest.raises(PlanError, match="needs that result"):
        make_plan(Recipe(start_from="volume.h5"), holograms)


def test_a_result_of_an_earlier_version_gives_its_volume(holograms, of_holograms, tmp_path):
    write_result(tmp_path / "volume.h5", of_holograms[0])
    with h5py.File(tmp_path / "volume.h5", "r+") as file:
        del file["views"], file["provenance"], file.attrs["technique"], file.attrs["regime"]
        del file["probe"].attrs["frame_intensity"], file["probe"].attrs["oversampling"]
    former = read_former(tmp_path / "volume.h5")
    found = continued(holograms, former)
    assert first_misfit(found) < 1.1 * misfit_of(of_holograms[0])
    assert [note for note in found.plan.notes if "does not list its views" in note]
