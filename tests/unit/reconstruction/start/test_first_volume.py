"""The first volume of holograms, and what decides about it."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import VOXEL_M, ball, blank, hologram_geometry, relative_error

from bluesky_multislice.errors import PlanError
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import Mesh, join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct, simulate_frames
from bluesky_multislice.reconstruction.start import first_volume
from bluesky_multislice.reconstruction.start.first_volume import load_holograms
from bluesky_multislice.solvers import split_views

N, ANGLES, RATIO = 32, 24, 0.1


def measured(geometry, delta):
    frames = simulate_frames(blank(geometry), delta, RATIO * delta, voxel_size_m=(VOXEL_M,) * 3, slices=4)
    return Scan(geometry, Frames(np.array(list(frames), np.float32)))


@pytest.fixture(scope="module")
def weak():
    """A hologram scan of a weak ball off the axis in all directions, and its δ."""
    delta = ball(N, radius=5.0, delta=2e-4)
    return measured(hologram_geometry(N, ANGLES, distance_m=60e-9), delta), delta


def started(scan, views=None, planned=None, **recipe):
    """The first volume of a scan in a beam of intensity one; ``planned`` overrules the plan of the recipe."""
    plan = replace(make_plan(Recipe(**{"ranks": 1, "device": "cpu", **recipe}), scan), **(planned or {}))
    probe = torch.ones(1, *plan.forward_model(scan.geometry).window, dtype=torch.complex64)
    with join_mesh("cpu") as mesh:
        fitted, held_back = split_views(scan.geometry.views, 8)
        return first_volume(scan, plan, fitted if views is None else views, held_back, probe, 1.0, mesh)


def test_a_weak_sample_is_found_in_place(weak):
    scan, truth = weak
    (delta, beta), origin = started(scan, beta_over_delta_min=RATIO, beta_over_delta_max=RATIO)
    assert "contrast transfer, β/δ 0.1" in origin
    assert relative_error(delta, truth) < 0.5  # 0.41 was measured
    alike = np.corrcoef(delta.ravel(), truth.ravel())[0, 1]
    assert alike > 0.9
    for axis in (0, 1, 2):
        assert np.corrcoef(delta.flip(axis).ravel(), truth.ravel())[0, 1] < 0.95 * alike
    torch.testing.assert_close(beta, RATIO * delta)


def test_several_distances_are_taken_together(weak):
    scan, truth = weak
    geometry = scan.geometry
    both = replace(
        geometry,
        distance_m=np.concatenate([geometry.distance_m, geometry.distance_m / 2]),
        angle_rad=np.tile(geometry.angle_rad, 2),
        position_m=np.tile(geometry.position_m, (2, 1)),
    )
    two = measured(both, truth)
    found = [started(two, views)[0][0] for views in (np.arange(2 * ANGLES), np.arange(ANGLES))]
    errors = [relative_error(delta, truth) for delta in found]
    assert errors[0] < 0.95 * errors[1]


def test_views_beside_the_axis_are_put_in_place(weak):
    scan, truth = weak
    position_m = np.zeros((ANGLES, 2))
    position_m[:, 1] = 3 * VOXEL_M
    aside = measured(replace(scan.geometry, position_m=position_m), truth)
    found, plain = (started(each)[0][0] for each in (aside, scan))
    edge = (found.shape[-1] - N) // 2
    inside = found[edge : edge + N, :, edge : edge + N]
    assert np.corrcoef(inside.ravel(), plain.ravel())[0, 1] > 0.98


def test_bad_pixels_leave_no_holes(weak):
    scan, _ = weak
    stored, mask = scan.frames.read(np.arange(ANGLES)), np.ones((N, N), bool)
    stored[:, 15, 12], mask[15, 12] = np.nan, False
    holed, whole = (started(each)[0][0] for each in (Scan(scan.geometry, Frames(stored, mask=mask)), scan))
    assert relative_error(holed, whole) < 0.15


def test_ranks_share_the_angles(weak):
    scan, _ = weak
    plan = make_plan(Recipe(ranks=1, device="cpu"), scan)
    probe = torch.ones(1, *plan.forward_model(scan.geometry).window, dtype=torch.complex64)
    views = np.arange(ANGLES)
    shares = [load_holograms(scan, plan, views, probe, 1.0, Mesh(rank, 3, torch.device("cpu"))) for rank in range(3)]
    assert sorted(own.angle_rad for share in shares for own in share) == sorted(scan.geometry.angle_rad)


@pytest.mark.parametrize("at_once", [1, 5, None])
def test_angles_in_turn_from_disk_give_the_volume_of_all_at_once(weak, at_once):
    scan, _ = weak
    (whole, _), origin = started(scan, planned={"frames_in": "memory"})
    (found, _), came = started(scan, planned={"frames_in": "disk", "angles_at_once": at_once})
    assert came == origin
    assert torch.linalg.norm(found - whole) < 1e-6 * torch.linalg.norm(whole)


def test_an_empty_volume_is_kept_where_no_retrieval_explains_the_frames(weak):
    scan, _ = weak
    random = np.random.default_rng(0).uniform(0.5, 1.5, (ANGLES, N, N)).astype(np.float32)
    assert started(Scan(scan.geometry, Frames(random))) == ([], "empty")


def test_the_fit_goes_on_from_it(weak):
    scan, truth = weak
    results = {}
    for start in ("thin_sample", "empty"):
        with join_mesh("cpu") as mesh:
            plan = make_plan(Recipe(ranks=1, device="cpu", start=start, epochs=2, find_axis=False), scan)
            results[start] = reconstruct(scan, plan, mesh)
    assert results["thin_sample"].start.startswith("thin sample")
    assert results["empty"].start == "empty"
    errors = [relative_error(results[start].solution.delta, truth) for start in ("thin_sample", "empty")]
    assert errors[0] < 0.9 * errors[1]


def test_it_is_planned_for_holograms_of_several_angles(weak):
    scan, _ = weak
    assert make_plan(Recipe(), scan).start == "thin_sample"
    assert make_plan(Recipe(), blank(hologram_geometry(N, 1))).start == "empty"
    with pytest.raises(PlanError, match="thin_sample for holography of 1 angle"):
        make_plan(Recipe(start="thin_sample"), blank(hologram_geometry(N, 1)))
