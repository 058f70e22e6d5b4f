"""One rank needs no torchrun; several are in tests/physics/test_ranks.py."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from bluesky_multislice.parallel import Mesh, join_mesh


def test_one_rank_is_a_mesh_of_its_own():
    with join_mesh("cpu") as mesh:
        assert (mesh.rank, mesh.size, mesh.device.type) == (0, 1, "cpu")
        numbers = torch.tensor([1.0, 2.0])
        mesh.sum(numbers)
        assert numbers.tolist() == [1.0, 2.0]
        assert mesh.largest(7) == 7


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 7])
def test_shares_cover_everything_once_and_differ_by_one_at_most(size, count):
    shares = [Mesh(rank, size, torch.device("cpu")).share(count) for rank in range(size)]
    np.testing.assert_array_equal(np.sort(np.concatenate([list(share) for share in shares])), np.arange(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("code", [0, 3])
def test_a_rank_ends_with_its_status_and_all_it_printed(code):
    script = f"from bluesky_multislice.parallel import end_process; print('last words'); end_process({code})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "last words\n")
