"""What checkpoints keep: by name, with a version that is checked."""

import numpy as np
import pytest
import torch
from small_scan import hologram_scan

from bluesky_multislice.errors import JobError
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.solvers import Unknowns
from bluesky_multislice.solvers.progress import FitProgress, load_random_state, random_state

RECIPE = {
    "ranks": 1,
    "device": "cpu",
    "optimiser": "adam",
    "refine_probe": True,
    "probe_variations": 2,
    "refine": {"quantities": ("positions", "intensity"), "schedules": {"probe_variations": {"from_epoch": 1}}},
}


def unknowns():
    scan = hologram_scan()
    plan = make_plan(Recipe(**RECIPE), scan)
    model = plan.forward_model(scan.geometry)
    return Unknowns(model, torch.ones(1, *model.window, dtype=torch.complex64), plan.fit, torch.device("cpu"))


@pytest.fixture(scope="module")
def moved():
    """Unknowns after two steps, with gradients that wait for the next one."""
    found = unknowns()
    for _ in range(2):
        add_gradients(found)
        found.step()
        found.end_epoch()
    add_gradients(found)
    return found


def add_gradients(found):
    for number, gradient in enumerate(found.gradients(), start=1):
        gradient += number


@pytest.fixture(scope="module")
def state(moved):
    with join_mesh("cpu") as mesh:
        return {name: tensor.detach().clone() for name, tensor in moved.state(moved.copy(), mesh).items()}


def test_a_state_is_read_by_name_in_any_order(moved, state):
    again = unknowns()
    with join_mesh("cpu") as mesh:
        best = again.load(dict(reversed(state.items())), mesh)
        assert again.state(best, mesh).keys() == state.keys()
        for name, tensor in again.state(best, mesh).items():
            torch.testing.assert_close(tensor, state[name], msg=name)
    assert {"refined/positions", "variation/shapes", "object/epochs", "best/probe"} <= set(state)


OWNERS = ("unknowns", "object", "probe", "refinement", "refined/positions", "variation")


@pytest.mark.parametrize("owner", OWNERS)
@pytest.mark.parametrize(("version", "release"), [(None, "an older"), (99, "a newer")])
def test_the_state_of_another_release_is_refused(state, owner, version, release):
    other = {name: tensor for name, tensor in state.items() if name != f"{owner}/version"}
    if version is not None:
        other[f"{owner}/version"] = torch.tensor(version)
    with join_mesh("cpu") as mesh, pytest.raises(JobError, match=rf"state of its {owner}\..*from {release}.*remove"):
        unknowns().load(other, mesh)


def test_random_numbers_and_progress_have_versions_too():
    shuffles = {0: np.random.default_rng(0)}
    kept = random_state(0, shuffles)
    with pytest.raises(JobError, match="state of its random"):
        load_random_state(kept | {"random/version": torch.tensor(2.0)}, shuffles)
    values = FitProgress(empty=True, initial_loss=1.0).as_dict()
    assert FitProgress.from_dict(values).initial_loss == 1
    with pytest.raises(JobError, match="state of its progress"):
        FitProgress.from_dict(values | {"version": 2})
