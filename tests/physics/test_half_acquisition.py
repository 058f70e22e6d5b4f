"""The rotation axis near the edge of the frames, over a full turn: found before the plan, or clearly not told."""

from dataclasses import replace

import numpy as np
import pytest
from small_scan import VOXEL_M, blank, hologram_geometry, rebuild, relative_error

from bluesky_multislice.files import read_former, write_result
from bluesky_multislice.measurement import Frames, Scan, VolumeGrid, find_axis_near_edge
from bluesky_multislice.models import resample
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct, simulate_frames
from bluesky_multislice.simulation.phantoms import spheres_and_shells

TURN = np.linspace(0, 2 * np.pi, 120, endpoint=False)


def shadows(width, axis, angles_rad, *, height=24, noise=0.0, radius=None):
    """Frames (angle, y, x) of soft balls that rotate about an axis this many pixels right of the frames' middle."""
    random = np.random.default_rng(5)
    reach = radius or width / 2 + abs(axis)
    count = 60
    distance, start = reach * np.sqrt(random.uniform(size=count)), random.uniform(0, 2 * np.pi, count)
    row, size = random.uniform(0, height, count), random.uniform(1, 3, count)
    x = np.arange(width) - (width - 1) / 2 - axis
    along_y = np.exp(-((np.arange(height)[:, None] - row) ** 2) / 2 / size**2)
    frames = []
    for angle in angles_rad:
        place = distance * np.cos(angle - start)
        along_x = np.exp(-((x[:, None] - place) ** 2) / 2 / size**2)
        frames.append(1 - 0.2 * along_y @ along_x.T)
    return np.stack(frames) + noise * random.normal(size=(len(angles_rad), height, width))


def scan_of(frames, angles_rad, **changed):
    geometry = hologram_geometry(16, len(angles_rad))
    detector = replace(geometry.detector, shape=frames.shape[1:])
    geometry = replace(geometry, angle_rad=np.asarray(angles_rad), detector=detector, **changed)
    return Scan(geometry, Frames(frames.clip(0).astype(np.float32)))


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("width", [64, 65])
@pytest.mark.parametrize("axis", [25.0, -20.5, 12.3, -27.0])
def test_an_axis_near_the_edge_is_found(width, axis, noise):
    found = find_axis_near_edge(scan_of(shadows(width, axis, TURN, noise=noise), TURN))
    assert found == pytest.approx(axis, abs=0.25)


ORDERS = {
    "shuffled": np.random.default_rng(0).permutation(TURN),
    "backwards": TURN[::-1],
    "from another angle": TURN + 1.3,
    "beyond a full turn": np.linspace(0, 3.5 * np.pi, 211),
    "with both ends": np.linspace(0, 2 * np.pi, 121),
    "of an odd number": np.linspace(0, 2 * np.pi, 121, endpoint=False),
    "negative": -TURN,
    "over 300°": np.linspace(0, np.radians(300), 101),
}


@pytest.mark.parametrize("order", ORDERS)
def test_angles_in_any_order_tell_the_axis(order):
    angles = ORDERS[order]
    assert find_axis_near_edge(scan_of(shadows(64, 22.5, angles), angles)) == pytest.approx(22.5, abs=0.3)


@pytest.mark.parametrize(
    ("frames", "angles"),
    [
        (shadows(64, 22.0, TURN / 2), TURN / 2),  # Half a turn has no opposite angles.
        (shadows(64, 3.0, TURN), TURN),  # The later search finds an axis near the middle.
        (shadows(64, 0.0, TURN, radius=14), TURN),
        (np.random.default_rng(1).uniform(0.9, 1.1, (120, 24, 64)), TURN),
        (np.ones((120, 24, 64)), TURN),
    ],
)
def test_other_scans_have_no_axis_near_the_edge(frames, angles):
    assert find_axis_near_edge(scan_of(frames, angles)) is None


def test_a_given_axis_is_kept():
    frames, moved = shadows(64, 22.0, TURN), np.tile([0, -20 * VOXEL_M], (len(TURN), 1))
    assert find_axis_near_edge(scan_of(frames, TURN, position_m=moved)) is None


def test_a_region_of_the_frames_does_not_give_an_axis():
    """Its middle is 3 pixels right of the detector's, and so are its positions."""
    scan = scan_of(shadows(64, 22.0, TURN)[..., 6:], TURN, position_m=np.tile([0, 3 * VOXEL_M], (len(TURN), 1)))
    assert find_axis_near_edge(replace(scan, absent=frozenset({"position_x"}))) == pytest.approx(22, abs=0.25)


@pytest.fixture(scope="module")
def half():
    """A half acquisition without a given axis, its axis in pixels, and δ (z, y, x) of the volume that it covers."""
    width, height, axis, angles = 24, 12, 7.5, 60
    delta = spheres_and_shells(39, delta=8e-3, count=40, seed=1)[:, 13:-14]
    geometry = hologram_geometry(width, angles, distance_m=30e-9)
    geometry = replace(
        geometry,
        angle_rad=np.arange(angles) * 2 * np.pi / angles,
        detector=replace(geometry.detector, shape=(height, width)),
        position_m=np.tile([0.0, -axis * VOXEL_M], (angles, 1)),
    )
    frames = simulate_frames(blank(geometry), delta, 0.05 * delta, voxel_size_m=(VOXEL_M,) * 3)
    return Scan(replace(geometry, position_m=np.zeros((angles, 2))), Frames(np.array(list(frames)))), axis, delta


FEW = {"ranks": 1, "device": "cpu", "epochs": 3, "slices": 3, "align": False}


@pytest.fixture(scope="module")
def found(half):
    """The plan of the half acquisition, and its result."""
    plan = make_plan(Recipe(**FEW), half[0])
    with join_mesh("cpu") as mesh:
        return plan, reconstruct(half[0], plan, mesh)


def test_the_volume_of_a_half_acquisition_is_about_the_axis_that_was_found(half, found):
    (scan, axis, delta), (plan, result) = half, found
    assert plan.grid.shape == (40, 12, 40)
    assert plan.axis_pixels == pytest.approx(axis, abs=0.25)
    assert any(f"half acquisition: the rotation axis was found {plan.axis_pixels:+.2f}" in note for note in plan.notes)
    assert result.axis_pixels == plan.axis_pixels
    np.testing.assert_allclose(result.position_m[:, 1], -plan.axis_pixels * VOXEL_M, atol=2 * VOXEL_M)
    given = replace(scan, geometry=replace(scan.geometry, position_m=np.tile([0.0, -axis * VOXEL_M], (60, 1))))
    volume = resample(result.solution.delta, plan.grid, VolumeGrid(delta.shape, (VOXEL_M,) * 3))
    least = relative_error(rebuild(given, epochs=3, slices=3, align=False, find_axis=False).delta, delta)
    assert relative_error(volume, delta) < 1.15 * least < 0.5


@pytest.mark.parametrize("find_axis", [None, False])
def test_a_warm_start_keeps_the_axis_and_the_width_of_the_volume(half, found, tmp_path, find_axis):
    plan, result = found
    write_result(tmp_path / "volume.h5", result, provenance={})
    scan = replace(half[0], former=read_former(tmp_path / "volume.h5"))
    again = make_plan(Recipe(**FEW, find_axis=find_axis), scan)
    assert (again.axis_pixels, again.grid.shape) == (0, plan.grid.shape)
    assert not [note for note in again.notes if note.startswith("half acquisition")]
    with join_mesh("cpu") as mesh:
        continued = reconstruct(scan, again, mesh)
    np.testing.assert_allclose(continued.position_m, result.position_m)
    assert continued.solution.history[0].loss < 1.1 * result.solution.history[-1].loss


def test_the_recipe_may_leave_the_axis_where_it_is(half):
    plan = make_plan(Recipe(ranks=1, device="cpu", find_axis=False), half[0])
    assert (plan.axis_pixels, plan.grid.shape) == (0, (24, 12, 24))
