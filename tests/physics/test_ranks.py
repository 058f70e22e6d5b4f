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
@pytest.mark.parametrize("name", ["delta", "beta", "history", "r"])
def test_shared_views_give_the_whole(results, ranks, name):
    whole, shared = results[1][name], results[ranks][name]
    assert np.linalg.norm(shared - whole) < 1e-3 * np.linalg.norm(whole)


def test_the_fit_explains_the_frames_better_each_epoch(results):
    fitted, held_back = results[1]["history"].T
    assert (np.diff(fitted) < 0).all()
    assert held_back[-1] < held_back[0]
