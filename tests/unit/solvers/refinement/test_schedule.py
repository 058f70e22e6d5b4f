"""Each thing that is refined moves from its own epoch, as strongly and as far as its own schedule says."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from test_refinement import ANGLES, EVERYTHING, SETTINGS, model, probe

from bluesky_multislice.solvers import RefinementSettings, Schedule, Unknowns
from bluesky_multislice.solvers.refinement import ProbeVariation
from bluesky_multislice.solvers.refinement.quantities import make_quantity


def unknowns(quantities=(), schedules=None, *, several_distances=False, refinement=None, **settings):
    refinement = {"schedules": schedules or {}, **(refinement or {})}
    fit = replace(SETTINGS, refinement=RefinementSettings(tuple(quantities), **refinement), **settings)
    return Unknowns(model(several_distances), probe(), fit, torch.device("cpu"))


def epoch(moved, gradient=1.0):
    """One step along the same gradient of everything that moves, and the end of the epoch."""
    for each in moved.gradients():
        each.fill_(gradient)
    moved.step()
    moved.end_epoch()


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_quantity_moves_from_its_own_epoch(name):
    other = "tilt" if name != "tilt" else "distance"
    several = name.startswith("distance_")
    moved = unknowns([name, other], {name: Schedule(3, 1.0, 1.0)}, several_distances=several)
    random, seen = torch.Generator().manual_seed(1), []
    for _ in range(3):
        for each in moved.gradients()[1:]:
            # Without light there is no background, so it can only grow.
            each.copy_(torch.rand(each.shape, generator=random) - (1.0 if "background" in name else 0.5))
        moved.step()
        seen.append([bool(moved.differences[which].any()) for which in (name, other)])
        moved.end_epoch()
    assert seen == [[False, True], [False, True], [True, True]]


@pytest.mark.parametrize("name", EVERYTHING)
def test_every_quantity_has_a_bound_of_its_own(name):
    several = name.startswith("distance_")
    moved = unknowns([name], {name: Schedule(1, 100.0, 0.07)}, several_distances=several, epochs=100)
    gradient = torch.ones_like(moved.gradients()[1])
    if name in ("positions", "axis_shift", "intensity", "angle"):
        gradient.view(-1)[::3] = -1
    for _ in range(30):
        moved.gradients()[1].copy_(-gradient)
        moved.step()
    part = make_quantity(name, model(several), bound=1.0, probe_refined=False, device=torch.device("cpu"))
    assert float((moved.differences[name] / part.unit).abs().max()) == pytest.approx(0.07, rel=1e-5)


def test_a_quantity_has_a_strength_of_its_own():
    moved = unknowns(["distance", "tilt"], {"tilt": Schedule(1, 3.0, 20.0)}, refinement={"strength": 0.5})
    epoch(moved)
    units = [
        make_quantity(name, model(), bound=1.0, probe_refined=False, device=torch.device("cpu")).unit
        for name in ("distance", "tilt")
    ]
    distance, tilt = (moved.differences[name] / unit for name, unit in zip(("distance", "tilt"), units, strict=True))
    assert float(distance) == pytest.approx(-0.5 * 0.001, rel=0.03)
    assert float(tilt[0]) == pytest.approx(-3 * 0.05, rel=0.03)


def test_frames_held_back_follow_only_what_moves():
    moved = unknowns(["positions", "intensity"], {"positions": Schedule(2, 1.0, 1.0)})
    with torch.no_grad():
        moved.object.add_(0.3 * torch.rand(moved.object.shape, generator=torch.Generator().manual_seed(1)))
    moved.add_view_gradients((moved.expected_intensity(np.array([2])) ** 2).sum(), np.array([2]))
    assert len(moved.gradients()) == 2
    moved.end_epoch()
    moved.add_view_gradients((moved.expected_intensity(np.array([2])) ** 2).sum(), np.array([2]))
    _, positions, intensity = moved.gradients()
    assert positions.shape == (ANGLES, 2)
    assert positions.any()
    assert intensity.any()


@pytest.mark.parametrize(("optimiser", "from_epoch", "moves"), [("adam", 1, 1), ("adam", 3, 3), ("weighted", 1, 2)])
def test_the_probe_moves_from_its_epoch(optimiser, from_epoch, moves):
    moved = unknowns(
        schedules={"probe": Schedule(from_epoch, 1.0, 4.0)}, optimiser=optimiser, probe_step=0.1, epochs=100
    )
    before, changed = moved.probe.detach().clone(), []
    for _ in range(4):
        if optimiser == "weighted":
            moved.add_illumination(np.arange(ANGLES))
        epoch(moved, gradient=0.01)
        changed.append(bool((moved.probe - before).abs().max() > 0))
    assert changed == [number + 1 >= moves for number in range(4)]


def test_the_probe_has_a_strength_of_its_own():
    once, twice = (
        unknowns(schedules={"probe": Schedule(1, strength, 4.0)}, optimiser="adam", probe_step=0.01)
        for strength in (1.0, 2.0)
    )
    start = probe()
    for moved in (once, twice):
        epoch(moved)
    torch.testing.assert_close(twice.probe - start, 2 * (once.probe - start), rtol=1e-4, atol=1e-6)


def powers(gradient, schedules=None, light=None):
    """Mean |probe|² after each of some steps of a flat probe of 1 along a gradient of its real part."""
    refinement = RefinementSettings(schedules=schedules or {})
    settings = replace(
        SETTINGS, optimiser="adam", probe_step=0.3, epochs=1000, refinement=refinement, probe_light=light
    )
    moved, found = Unknowns(model(), torch.ones_like(probe()), settings, torch.device("cpu")), []
    for _ in range(8):
        moved.gradients()[1][..., 0] = gradient
        moved.step()
        found.append(float(moved.probe.detach().abs().square().mean()))
    return found


@pytest.mark.parametrize(("light", "start"), [(None, 1.0), (0.5, 0.5)])
@pytest.mark.parametrize(("gradient", "side"), [(-1.0, 1.1), (1.0, 1 / 1.1)])
def test_the_probes_power_stays_with_the_light_of_the_frames(light, start, gradient, side):
    found = powers(gradient, {"probe": Schedule(1, 1.0, 1.1)}, light)
    assert found[-1] == pytest.approx(side * start, rel=1e-5)


@pytest.mark.parametrize(("gradient", "bound"), [(-1.0, 4.0), (1.0, 0.25)])
def test_a_planned_probe_keeps_a_quarter_to_four_times_the_light(gradient, bound):
    found = powers(gradient)
    assert found[-1] == pytest.approx(bound, rel=1e-5)
    assert 0.25 - 1e-5 < min(found) < max(found) < 4 + 1e-5


def test_probe_variations_have_a_schedule_of_their_own():
    def after(epochs, **settings):
        moved = unknowns(optimiser="adam", probe_step=0.01, probe_variations=1, **settings)
        for _ in range(epochs):
            moved.add_illumination(np.arange(ANGLES))
            epoch(moved, gradient=5.0)
        return float(moved.differences["variation_of_view"].abs().max())

    assert after(2) == 0
    assert after(3) > 0
    assert after(4, refinement={"from_epoch": 5}) == 0
    own = {"probe_variations": Schedule(1, 1.0, 1.0)}
    assert after(1, schedules=own, refinement={"from_epoch": 5}) > 0


def test_the_weights_of_probe_variations_have_a_bound_and_a_strength():
    def weights(schedule):
        moved = ProbeVariation(probe()[0], views=3, number=1, schedule=schedule, relative_step=lambda epochs: 1.0)
        moved.gradients()["variation/weights"].fill_(1.0)
        moved.count_views(np.arange(3))
        moved.step()
        return float(moved.weights.detach().abs().max())

    free = weights(Schedule(1, 1.0, 1.0))
    assert weights(Schedule(1, 0.5, 1.0)) == pytest.approx(0.5 * free, rel=1e-5)
    assert weights(Schedule(1, 1.0, 0.1 * free)) == pytest.approx(0.1 * free, rel=1e-5)


def test_what_has_no_schedule_of_its_own_shares_one():
    shared = RefinementSettings(("tilt", "positions"), from_epoch=4, strength=0.5, furthest_pixels=3.0)
    assert shared.schedule_of("tilt") == Schedule(4, 0.5, 20.0)
    assert shared.schedule_of("positions") == Schedule(4, 0.5, 3.0)
    assert shared.schedule_of("probe_variations") == Schedule(4, 0.5, 1.0)
    assert shared.schedule_of("probe") == Schedule(1, 1.0, 4.0)
    assert RefinementSettings().schedule_of("probe_variations") == Schedule(3, 1.0, 1.0)


def test_schedules_survive_plain_numbers():
    settings = RefinementSettings(("tilt",), schedules={"tilt": Schedule(2, 0.5, 1.0), "probe": Schedule(1, 1.0, 2.0)})
    assert RefinementSettings.from_dict(asdict(settings)) == settings
    assert settings.probe_only == RefinementSettings(schedules={"probe": Schedule(1, 1.0, 2.0)})
