"""Several ranks find the same rotation axis and initial volume as one rank."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from start_on_ranks import PHANTOM


def started_on(ranks, frames):
    """Return what rank 0 saved under torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(Path(__file__).with_name("start_on_ranks.py")), str(frames)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
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
