"""The identity of a plan: a job resumes exactly if the parts of its plan that determine the numbers are the same."""

import json
from dataclasses import fields, replace

import pytest
from small_scan import hologram_scan

from bluesky_multislice.measurement import VolumeGrid
from bluesky_multislice.models import FrameTiles
from bluesky_multislice.planning import Plan, identity, make_plan
from bluesky_multislice.planning.plan_parts import IDENTITY_PARTS, PARTS, STEP_SIZES, names_of
from bluesky_multislice.recipe import Recipe

CHANGED = {
    "grid": VolumeGrid((2, 3, 4), (1e-9, 1e-9, 1e-9)),
    "support": "cylinder",
    "propagation": "projection",
    "edges": "outgoing",
    "interpolation": "cubic",
    "way_to_detector": "fresnel",
    "tiles": (2, 2),
    "saturated": "mask",
    "start": "nothing",
    "from_former": ("volume",),
    "smoothings": (1.0, 2.0),
    "frame_tiles": FrameTiles((0, 8, 16), 2),
    "device": "gpu",
    "kernels": "general",
    "gradient": "nothing",
    "frames_in": "disk",
    "angles_at_once": 3,
    "checkpoint_every": 7,
    "notes": ("a remark",),
}


@pytest.fixture(scope="module")
def scan():
    return hologram_scan(angles=4)


@pytest.fixture(scope="module")
def plan(scan):
    return make_plan(Recipe(epochs=1, ranks=1, coarse_levels=1), scan)


def changed(plan, name):
    if name == "fit":
        return replace(plan, fit=replace(plan.fit, seed=plan.fit.seed + 1))
    value = getattr(plan, name)
    if isinstance(value, bool):
        other = not value
    else:
        other = CHANGED[name] if name in CHANGED else value + 1
    assert other != value
    return replace(plan, **{name: other})


def test_five_parts_and_earlier_fits_are_the_whole_plan():
    assert len(PARTS) == 5
    names = [name for part in PARTS for name in names_of(part)]
    assert sorted([*names, "earlier"]) == sorted(field.name for field in fields(Plan))


@pytest.mark.parametrize("name", [name for part in IDENTITY_PARTS for name in names_of(part)])
def test_what_changes_the_numbers_changes_the_identity(scan, plan, name):
    assert identity(scan, changed(plan, name)) != identity(scan, plan)
    earlier = (changed(plan.earlier[0], name),)
    assert identity(scan, replace(plan, earlier=earlier)) != identity(scan, plan)


@pytest.mark.parametrize("name", [name for part in PARTS if part not in IDENTITY_PARTS for name in names_of(part)])
def test_what_only_differs_between_machines_keeps_the_identity(scan, plan, name):
    assert identity(scan, changed(plan, name)) == identity(scan, plan)


@pytest.mark.parametrize("name", STEP_SIZES)
def test_a_job_resumes_with_other_step_sizes(scan, plan, name):
    fit = replace(plan.fit, **{name: getattr(plan.fit, name) + 1})
    assert identity(scan, replace(plan, fit=fit)) == identity(scan, plan)


def test_a_plan_comes_back_from_json(plan):
    record = json.loads(json.dumps(plan.as_dict()))
    assert list(record) == ["volume", "model", "fit", "mesh", "storage", "earlier"]
    assert Plan.from_dict(record) == plan
