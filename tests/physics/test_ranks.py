"""Views shared among ranks give the same volume as all of them on one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).with_name("fit_on_ranks.py")


def fit_on(ranks, path):
    """Run the fit under torchrun and return what rank 0 saved."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(SCRIPT), str(path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return np.load(path)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return {ranks: fit_on(ranks, folder / f"{ranks}.npz") for ranks in (1, 2, 3)}


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("case", ["known", "refined", "weighted"])
@pytest.mark.parametrize("name", ["delta", "beta", "history", "r"])
def test_shared_views_give_the_whole(results, ranks, case, name):
    whole, shared = (results[number][f"{case}/{name}"] for number in (1, ranks))
    assert np.linalg.norm(shared - whole) < 1e-4 * np.linalg.norm(whole)  # 3e-6 was measured


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("name", ["positions", "axis_shift", "intensity", "background"])
def test_quantities_of_all_views_are_refined_wherever_their_frames_lie(results, ranks, name):
    whole, shared = (results[number][f"refined/{name}"] for number in (1, ranks))
    assert whole.any()
    assert np.linalg.norm(shared - whole) < 1e-3 * np.linalg.norm(whole)  # 5e-5 was measured


@pytest.mark.parametrize("ranks", [2, 3])
def test_each_views_part_of_the_probes_variation_is_found_wherever_its_frame_lies(results, ranks):
    whole, shared = (results[number]["weighted/variation_of_view"] for number in (1, ranks))
    assert whole.any(axis=1).all()
    assert np.linalg.norm(shared - whole) < 1e-3 * np.linalg.norm(whole)


def test_frames_held_back_find_their_own_positions_on_whatever_rank_they_lie(results):
    assert results[2]["refined/positions"][:2].all()


@pytest.mark.parametrize("case", ["known", "refined", "weighted"])
def test_the_fit_explains_the_frames_better_each_epoch(results, case):
    fitted, held_back = results[1][f"{case}/history"].T
    assert (np.diff(fitted) < 0).all()
    assert held_back[-1] < held_back[0]
