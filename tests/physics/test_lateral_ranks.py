"""A field whose rows lie on several ranks propagates, and has gradients, as the whole field in one process."""

import finite_difference_on_ranks
import numpy as np
import pytest
import torch
from finite_difference_on_ranks import LIGHT, OPTIONS, many_views, opaque_in_some_rows, propagated, whole_inputs
from forked_ranks import run_on_ranks

from bluesky_multislice import optics
from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel import Lateral, Mesh

SHARES = {1: [], 2: [], 3: [4, 12, 7]}
"""Ranks → rows of each, of 23; none for even ones."""


def on_ranks(ranks, path):
    """Propagate on some ranks and return what rank 0 saved."""
    run_on_ranks(finite_difference_on_ranks.main, ranks, path, SHARES[ranks])
    return np.load(path)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return {ranks: on_ranks(ranks, folder / f"{ranks}.npz") for ranks in SHARES}


@pytest.mark.parametrize("ranks", SHARES)
@pytest.mark.parametrize("name", OPTIONS)
def test_rows_on_ranks_give_the_whole(shared, ranks, name):
    parts = ("exit", "wave", "delta", "beta", "thickness")
    for part, whole in zip(parts, propagated(*whole_inputs(), **OPTIONS[name]), strict=True):
        found = shared[ranks][f"{name}/{part}"]
        assert np.linalg.norm(found - whole.numpy()) < 1e-12 * np.linalg.norm(whole.numpy()), part


@pytest.mark.parametrize("ranks", SHARES)
def test_ranks_of_different_rows_group_their_views_alike(shared, ranks):
    _, delta, beta, *_ = whole_inputs()
    whole = optics.finite_difference(many_views(), delta, beta, slice_thickness_m=3.0, **LIGHT).numpy()
    assert np.linalg.norm(shared[ranks]["many views"] - whole) < 1e-12 * np.linalg.norm(whole)


@pytest.mark.parametrize("ranks", SHARES)
def test_ranks_fall_back_on_checkpoints_together(shared, ranks):
    whole, *_ = propagated(*opaque_in_some_rows(), gradient="stored")
    assert np.linalg.norm(shared[ranks]["opaque"] - whole.numpy()) < 1e-12 * np.linalg.norm(whole)


@pytest.mark.parametrize("ranks", SHARES)
def test_turning_to_columns_and_back_changes_nothing(shared, ranks):
    assert shared[ranks]["there and back"] == 0


def test_columns_are_the_transpose_where_one_rank_holds_all():
    lateral = Lateral(Mesh(0, 1, torch.device("cpu")), (5, 4))
    wave = torch.arange(40).reshape(2, 5, 4)
    assert torch.equal(lateral.to_columns(wave), wave.mT)
    assert lateral.own_rows == slice(0, 5)


@pytest.mark.parametrize(
    ("shape", "rows", "rule"),
    [
        ((9, 8), [4, 4], "shared out completely"),
        ((9, 8), [9], "shared out completely"),
        ((9, 8), [9, 0], "at least one row and one column"),
        ((9, 1), None, "at least one row and one column"),
    ],
)
def test_rows_that_do_not_make_up_the_field_are_refused(shape, rows, rule):
    with pytest.raises(PlanError, match=rule):
        Lateral(Mesh(0, 2, torch.device("cpu")), shape, rows)
