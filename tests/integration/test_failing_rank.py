"""A rank that fails while the others sit in a collective: the job ends with its error, and nobody waits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_job import stage

from bluesky_multislice.errors import JobError

JOB = Path(__file__).with_name("job_with_a_failing_rank.py")
KILLED = "forcefully exiting via"
"""What the launcher says of a rank that did not end when it was asked to, after half a minute."""


def run(folder, kind):
    """What two ranks print; the time is far beyond what they take, and far below what gloo waits for a peer."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(JOB)]
    done = subprocess.run(
        [*command, kind, str(folder.path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize("mesh", ["1x2", pytest.param("2x1", marks=pytest.mark.matrix)])
def test_the_error_is_that_of_the_rank_that_failed(tmp_path, mesh):
    folder = stage(tmp_path / "folder", ranks=None, mesh=mesh, checkpoint_every=1)
    assert KILLED not in run(folder, "raises")
    error = folder.read_error()
    assert type(error) is JobError
    assert "ValueError: rank 1 cannot go on" in error.got


def test_a_rank_that_hears_nothing_ends_with_the_job(tmp_path):
    folder = stage(tmp_path / "folder")
    said = run(folder, "unheard")
    assert "another rank of the job has failed; this rank ends as well" in said
    assert KILLED not in said
    assert "ValueError: rank 1 cannot go on" in folder.read_error().got


def test_a_rank_without_memory_says_what_was_planned_and_what_would_fit(tmp_path):
    folder = stage(tmp_path / "folder", batch_views=4)
    run(folder, "out of memory")
    error = folder.read_error()
    assert type(error) is JobError
    assert "must fit into memory" in error.rule
    assert "the plan has" in error.got
    assert "(CUDA out of memory. Tried to allocate 20.00 GiB.)" in error.got
    assert "depth_um" in error.remedy
