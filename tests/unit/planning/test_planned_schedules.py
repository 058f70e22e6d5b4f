"""What a recipe says about when, how strongly and how far something is refined reaches the fits."""

import pytest
from small_scan import hologram_geometry
from test_planning import pattern_geometry, plan_of

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning import thin_plan, with_probe_intensity
from bluesky_multislice.solvers import RefinementSettings, Schedule


@pytest.mark.parametrize(
    ("name", "own", "found"),
    [
        ("positions", {"from_epoch": 4}, Schedule(4, 0.5, 3.0)),
        ("tilt", {"strength": 2.0, "bound": 1.5}, Schedule(2, 2.0, 1.5)),
        ("intensity", {}, Schedule(2, 0.5, 0.5)),
        ("probe", {"bound": 1.2}, Schedule(1, 1.0, 1.2)),
        ("probe", {"from_epoch": 3, "strength": 0.1}, Schedule(3, 0.1, 4.0)),
        ("probe_variations", {"bound": 0.3}, Schedule(3, 0.5, 0.3)),
    ],
)
def test_a_schedule_of_ones_own_leaves_the_rest_as_shared_or_planned(name, own, found):
    refine = {
        "quantities": ["positions", "tilt", "intensity"],
        "from_epoch": 2,
        "strength": 0.5,
        "furthest_pixels": 3.0,
        "schedules": {name: own},
    }
    settings = plan_of(pattern_geometry(), probe_variations=1, epochs=20, refine=refine).fit.refinement
    assert settings.schedule_of(name) == found
    assert settings.schedule_of("axis_shift") == Schedule(2, 0.5, 3.0)


def test_earlier_fits_keep_the_probes_schedule_and_no_others():
    refine = {"quantities": ["tilt"], "schedules": {"tilt": {"bound": 1.0}, "probe": {"from_epoch": 3, "bound": 1.2}}}
    plan = plan_of(pattern_geometry(), coarse_levels=1, refine=refine)
    assert plan.earlier[0].fit.refinement == RefinementSettings(schedules={"probe": Schedule(3, 1.0, 1.2)})
    tried = thin_plan(plan, epochs=6, batch_views=2).fit.refinement
    assert tried == RefinementSettings(schedules={"probe": Schedule(1, 1.0, 1.2)})


def test_the_frames_light_reaches_every_fit_of_a_plan():
    plan = with_probe_intensity(plan_of(pattern_geometry(), coarse_levels=1), 0.7)
    assert [each.fit.probe_light for each in (*plan.earlier, plan)] == [0.7, 0.7]


def test_a_schedule_of_a_probe_that_is_not_refined_is_refused():
    with pytest.raises(PlanError, match=r"refine\.schedules\.probe"):
        plan_of(hologram_geometry(), refine={"schedules": {"probe": {"bound": 2.0}}})


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        ({"refine": {"quantities": ["tilt", "positions"], "from_epoch": 9}}, "tilt, positions will"),
        ({"refine": {"quantities": ["tilt"], "schedules": {"tilt": {"from_epoch": 9}}}}, "tilt will"),
        ({"refine": {"schedules": {"probe": {"from_epoch": 9}}}}, "probe will"),
        ({"probe_variations": 2, "epochs": 2}, "probe_variations will"),
        ({"refine": {"quantities": ["tilt"], "from_epoch": 8}}, None),
    ],
)
def test_what_never_moves_is_said(recipe, names):
    notes = [
        note for note in plan_of(pattern_geometry(), **{"epochs": 8, **recipe}).notes if "will not be refined" in note
    ]
    assert len(notes) == (names is not None)
    assert names is None or names in notes[0]


def test_a_schedule_of_its_own_moves_slices_from_the_epoch_it_says():
    refine = {"quantities": ["slice_spacing", "positions"], "schedules": {"slice_spacing": {"from_epoch": 5}}}
    recipe = {"depth_um": 0.04, "slices": 3, "epochs": 32, "refine": refine}
    settings = plan_of(pattern_geometry(angles=1), **recipe).fit.refinement
    assert [settings.schedule_of(name).from_epoch for name in ("slice_spacing", "positions")] == [5, 1]
