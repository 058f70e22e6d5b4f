"""Several ranks find the same shifts, rotation axis and initial volume as one rank."""

import numpy as np
import pytest
import start_on_ranks
from forked_ranks import run_on_ranks
from start_on_ranks import PHANTOM


def started_on(ranks, frames):
    """Return what rank 0 saved."""
    run_on_ranks(start_on_ranks.main, ranks, frames)
    return np.load(frames.with_name(f"{frames.stem}-{ranks}.npz"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    frames = tmp_path_factory.mktemp("start") / "frames.npy"
    np.save(frames, PHANTOM.frames())
    return {ranks: started_on(ranks, frames) for ranks in (1, 2)}


@pytest.mark.parametrize("name", ["delta", "beta"])
def test_shared_angles_give_the_whole_volume(results, name):
    whole, shared = (results[ranks][name] for ranks in (1, 2))
    assert whole.any()
    assert np.linalg.norm(shared - whole) < 1e-4 * np.linalg.norm(whole)


def test_the_ranks_agree_on_retrieval_and_axis(results):
    assert str(results[1]["origin"]) == str(results[2]["origin"])
    assert results[2]["axis"] == pytest.approx(results[1]["axis"], abs=1e-3)
    assert results[2]["axis"] == pytest.approx(PHANTOM.axis, abs=0.2)


@pytest.mark.parametrize("name", ["shifts", "misfit"])
def test_the_ranks_find_the_shifts_of_one_rank(results, name):
    np.testing.assert_allclose(results[2][name], results[1][name], atol=1e-3)
