"""What is refined beside volume and probe: steps, bounds, schedule, what no frame depends on, frames held back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import hologram_geometry, pattern_scan

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import ForwardModel, ModelOptions
from bluesky_multislice.optics import propagate
from bluesky_multislice.solvers import FitSettings, RefinementSettings, Unknowns
from bluesky_multislice.solvers.refinement.quantities import make_quantity

N, ANGLES, VOXEL_M, DISTANCE_M = 8, 8, 1e-9, 30e-9
EVERYTHING = {
    "positions": (ANGLES, 2),
    "axis_shift": (ANGLES, 2),
    "intensity": (ANGLES,),
    "distance": (1,),
    "distance_shift": (2, 2),
    "distance_magnification": (2,),
    "distance_rotation": (2,),
    "defocus": (),
    "angle": (ANGLES,),
    "tilt": (2,),
    "slice_spacing": (2,),
    "background": (),
    "background_map": (N, N),
}
SETTINGS = FitSettings(
    epochs=10,
    batch_views=4,
    object_step_rad=0.05,
    probe_step=0.0,
    gradient_floor=0.0,
    absorption=True,
    positivity=False,
    seed=0,
)


def model(several_distances=False):
    scan, grid = hologram_geometry(n=N, angles=ANGLES), VolumeGrid((N, N, N), (VOXEL_M, VOXEL_M, VOXEL_M))
    if several_distances:
        scan = replace(scan, distance_m=scan.distance_m * (1 + np.arange(ANGLES) % 2))
    return ForwardModel(scan, grid, ModelOptions(2))


def probe():
    at = torch.arange(N) - (N - 1) / 2
    return (torch.exp(-(at[:, None] ** 2 + at**2) / 8) + 0j)[None]


def unknowns(*quantities, probe_step=0.0, **settings):
    refinement = RefinementSettings(quantities, **settings)
    fit = replace(SETTINGS, refinement=refinement, probe_step=probe_step)
    several = any(name.startswith("distance_") for name in quantities)
    return Unknowns(model(several), probe(), fit, torch.device("cpu"))


def pushed(name, gradient, steps=1, **settings):
    """The difference of one quantity after steps along a gradient, in its unit."""
    moved = unknowns(name, **settings)
    for _ in range(steps):
        moved.gradients()[-1].add_(gradient)
        moved.step()
    several = name.startswith("distance_")
    unit = make_quantity(name, model(several), bound=2.0, probe_refined=False, device=torch.device("cpu")).unit
    return moved.differences[name] / unit


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_quantity_starts_at_the_scan_and_changes_the_frames(name):
    moved = unknowns(name)
    assert moved.differences[name].shape == EVERYTHING[name]
    assert not moved.differences[name].any()
    with torch.no_grad():
        moved.object.add_(0.3 * torch.rand(moved.object.shape, generator=torch.Generator().manual_seed(1)))
    views = np.arange(ANGLES)
    # Brighter frames are better: a background cannot get darker than none.
    (-(moved.expected_intensity(views) ** 2)).sum().backward()
    gradient = moved.gradients()[-1]
    assert gradient.abs().max() > 0
    before = moved.expected_intensity(views).detach()
    moved.step()
    assert moved.differences[name].any()
    assert (moved.expected_intensity(views) - before).abs().max() > 0


def test_a_step_is_in_the_quantitys_own_unit():
    assert float(pushed("distance", 1.0)) == pytest.approx(-0.001, rel=0.03)
    assert float(pushed("distance", 1.0, strength=3.0)) == pytest.approx(-0.003, rel=0.03)
    torch.testing.assert_close(
        pushed("tilt", torch.tensor([1.0, -1.0])), torch.tensor([-0.05, 0.05]), rtol=0.03, atol=0
    )


@pytest.mark.parametrize(
    ("name", "settings", "bound"),
    [
        ("positions", {"furthest_pixels": 0.3}, 0.3),
        ("axis_shift", {}, 2.0),
        ("distance", {}, 0.1),
        ("distance_shift", {"furthest_pixels": 3.0}, 3.0),
        ("distance_magnification", {}, 10.0),
        ("distance_rotation", {}, 10.0),
        ("tilt", {}, 20.0),
    ],
)
def test_no_quantity_goes_beyond_its_bound(name, settings, bound):
    gradient = torch.ones(EVERYTHING[name])
    gradient.view(-1)[::3] = -1
    assert float(pushed(name, gradient, 60, strength=50.0, **settings).abs().max()) == pytest.approx(bound)


@pytest.mark.parametrize("name", ["background", "background_map"])
def test_a_background_is_nowhere_negative(name):
    assert float(pushed(name, 1.0, 3).min()) == 0
    assert float(pushed(name, -1.0, 3).min()) > 0


def test_nothing_moves_before_its_epoch():
    moved = unknowns("distance", from_epoch=3)
    counts, distances = [], []
    for _ in range(3):
        counts.append(len(moved.gradients()))
        for gradient in moved.gradients():
            gradient.fill_(1.0)
        moved.step()
        distances.append(float(moved.differences["distance"]))
        moved.end_epoch()
    assert counts == [1, 1, 2]
    assert distances[:2] == [0, 0]
    assert distances[2] < 0


def test_steps_get_shorter():
    moved, at = unknowns("distance"), [0.0]
    for _ in range(10):
        moved.gradients()[-1].fill_(1.0)
        moved.step()
        at.append(float(moved.differences["distance"]) / DISTANCE_M)
        moved.end_epoch()
    lengths = np.abs(np.diff(at))
    assert lengths[0] == pytest.approx(0.001, rel=0.03)
    assert (np.diff(lengths) < 0).all()


def test_what_moves_the_volume_is_no_change_of_position():
    angles = torch.as_tensor(hologram_geometry(angles=ANGLES).angle_rad, dtype=torch.float32)
    for name in ("positions", "axis_shift"):
        for along_y, along_x in ((torch.ones(ANGLES), angles.cos()), (torch.ones(ANGLES), angles.sin())):
            assert float(pushed(name, torch.stack([along_y, along_x], 1)).abs().max()) < 0.04
        everyone_along_x = torch.stack([torch.zeros(ANGLES), torch.ones(ANGLES)], 1)
        assert float(pushed(name, everyone_along_x)[:, 1].abs().max()) > 0.01


@pytest.mark.parametrize(("probe_refined", "changes"), [(False, 2), (True, 3)])
def test_a_far_field_probe_takes_over_what_all_positions_share(probe_refined, changes):
    scan = pattern_scan()[0].geometry
    far = ForwardModel(scan, VolumeGrid((28, 28, 28), (VOXEL_M, VOXEL_M, VOXEL_M)), ModelOptions(2))
    quantity = make_quantity("positions", far, bound=2.0, probe_refined=probe_refined, device=torch.device("cpu"))
    along_y, along_x = quantity.gauge
    assert (along_y.shape[1], along_x.shape[1]) == (1, changes)
    quantity.values[:] = 0.5
    quantity.apply_constraints()
    assert float(quantity.values[:, 0].abs().max()) < 1e-4
    assert (float(quantity.values[:, 1].abs().max()) < 1e-4) is probe_refined


@pytest.mark.parametrize("probe_step", [0.0, 0.02])
def test_a_probe_takes_over_the_intensity_that_all_angles_share(probe_step):
    moved = unknowns("intensity", probe_step=probe_step)
    moved.gradients()[-1].fill_(1.0)
    moved.step()
    assert bool((moved.differences["intensity"].abs() < 1e-6).all()) is (probe_step > 0)


def test_frames_held_back_move_their_own_positions_only():
    moved = unknowns("positions", "distance", probe_step=0.02)
    with torch.no_grad():
        moved.object.add_(0.3 * torch.rand(moved.object.shape, generator=torch.Generator().manual_seed(1)))
    assert moved.refines_views
    moved.add_view_gradients((moved.expected_intensity(np.array([2])) ** 2).sum(), np.array([2]))
    volume, wave, positions, distance = moved.gradients()
    assert not any(part.any() for part in (volume, wave, distance))
    np.testing.assert_array_equal(positions.any(1), np.arange(ANGLES) == 2)
    assert not unknowns("distance").refines_views
    assert not unknowns("positions", from_epoch=2).refines_views


def test_a_defocus_is_the_probe_further_downstream():
    moved = unknowns("defocus")
    moved.gradients()[-1].fill_(-1.0)
    moved.step()
    optics = {"wavelength_m": 0.5e-9, "pixel_size_m": (VOXEL_M, VOXEL_M)}
    further = propagate(probe(), distance_m=float(moved.differences["defocus"]), **optics)
    assert float(moved.differences["defocus"]) > 0
    torch.testing.assert_close(moved.probe.detach(), further, rtol=1e-4, atol=1e-5)


def test_a_copy_holds_the_quantities_too():
    moved = unknowns("distance")
    saved = moved.copy()
    moved.gradients()[-1].fill_(1.0)
    moved.step()
    moved.restore(saved)
    assert not moved.differences["distance"].any()
    with torch.no_grad():
        saved["refined/distance"].fill_(torch.nan)
    moved.restore(saved)
    assert not moved.finite()


@pytest.mark.parametrize("name", ["distance_shift", "distance_magnification", "distance_rotation"])
def test_the_first_distance_is_what_others_are_measured_against(name):
    moved = pushed(name, 1.0, 3)
    assert not moved[0].any()
    assert bool((moved[1] < -0.05).all())
