"""One rank needs no torchrun; several are in tests/physics/test_ranks.py."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.distributed as dist
from emulated_accelerators import MODULE, emulate

from bluesky_multislice.errors import PlanError
from bluesky_multislice.parallel import Mesh, join_mesh, requested_threads
from bluesky_multislice.parallel.own_device import own_device


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


def on_node(monkeypatch, masks, *, kind="cuda", first_rank=0, same_devices=True):
    """The devices of a node's ranks, in their order, each with its own word for what it sees, such as ``2,3``.

    Args:
        masks: CUDA_VISIBLE_DEVICES of each rank, or what Slurm lets it see.
        first_rank: number of the node's first rank.
        same_devices: whether a number in a mask means the same device to all, as it does unless Slurm renumbers them.
    """
    store, found = dist.HashStore(), []
    for local_rank, mask in enumerate(masks):
        seen = mask.split(",")
        emulate(monkeypatch, *[10**9 for _ in seen], kind=kind)
        names = seen if same_devices else [f"{local_rank} {name}" for name in seen]
        monkeypatch.setattr(
            "bluesky_multislice.parallel.own_device.device_identifier", lambda device, names=names: names[device.index]
        )
        monkeypatch.setenv("LOCAL_RANK", str(local_rank))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
        found.append(str(own_device(kind, rank=first_rank + local_rank, store=store)))
    return found


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_ranks_that_see_all_gpus_take_the_one_of_their_number(monkeypatch, kind):
    assert on_node(monkeypatch, ["0,1,2"] * 3, kind=kind) == [f"{kind}:{number}" for number in range(3)]
    assert on_node(monkeypatch, ["0,1,2"] * 2, kind=kind, first_rank=6) == [f"{kind}:0", f"{kind}:1"]


def test_a_rank_with_a_mask_of_its_own_takes_what_it_sees(monkeypatch):
    """Slurm's --gpus-per-task: one device a rank, by its number on the node, or number 0 in a group of its own."""
    assert on_node(monkeypatch, ["0", "1", "2"]) == ["cuda:0"] * 3
    assert on_node(monkeypatch, ["0", "0"], same_devices=False) == ["cuda:0"] * 2
    assert on_node(monkeypatch, ["0,1", "2,3", "4,5"]) == ["cuda:0", "cuda:1", "cuda:0"]


@pytest.mark.parametrize(
    ("masks", "who"),
    [(["0", "0"], "ranks 4 and 5"), (["0,1"] * 3, "ranks 4 and 6"), (["1", "0", "0"], "ranks 5 and 6")],
)
def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch, masks, who):
    with pytest.raises(PlanError, match=rf"GPU of its own.*{who} have the same.*CUDA_VISIBLE_DEVICES='.*device cpu"):
        on_node(monkeypatch, masks, first_rank=4)


@pytest.mark.parametrize("device", ["gpu", "cuda", "xpu"])
def test_a_rank_that_finds_no_gpu_is_refused(monkeypatch, device):
    emulate(monkeypatch, kind="xpu" if device == "xpu" else "cuda")
    with pytest.raises(PlanError, match=f"device {device} needs a GPU"), join_mesh(device):
        pass


def test_auto_without_a_gpu_is_the_processor(monkeypatch):
    monkeypatch.setattr(f"{MODULE}._built_for", lambda: None)
    with join_mesh("auto") as mesh:
        assert mesh.device.type == "cpu"


@pytest.mark.parametrize(
    ("asked", "threads"), [({}, None), ({"OMP_NUM_THREADS": ""}, None), ("1", 1), ("16", 16), ("4,2", 4)]
)
def test_threads_that_an_environment_asks_for(asked, threads):
    assert requested_threads({"OMP_NUM_THREADS": asked} if isinstance(asked, str) else asked) == threads


@pytest.mark.parametrize("asked", ["0", "-1", "many", "0,4", "1.5", "²"])
def test_no_thread_is_an_error(monkeypatch, asked):
    with pytest.raises(PlanError, match=r"one thread or more.*OMP_NUM_THREADS="):
        requested_threads({"OMP_NUM_THREADS": asked})
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    with pytest.raises(PlanError, match="one thread or more"), join_mesh("cpu"):
        pass
