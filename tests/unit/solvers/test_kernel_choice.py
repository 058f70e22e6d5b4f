"""Which kernels a job computes with, and what it keeps of the comparison."""

import json
import subprocess
import sys

import pytest
import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.optics import KernelChoice, kernels_in_use, use_kernels, uses_fused
from bluesky_multislice.parallel import Mesh
from bluesky_multislice.solvers import choose_kernels
from bluesky_multislice.solvers.kernel_choice import AGREEMENT, cached_or_measured_differences, choice_from_differences

CPU = torch.device("cpu")
ALIKE = {"slices": 1e-7, "turns": 2e-7, "descent": 1e-7, "graphs": 0.0}


@pytest.fixture(autouse=True)
def kernels_afterwards():
    yield
    use_kernels(KernelChoice())


@pytest.mark.parametrize("asked", ["auto", "general"])
def test_processors_take_the_general_kernels(asked):
    choice = choose_kernels(asked, Mesh(0, 1, CPU))
    assert (choice.asked, choice.fused) == (asked, ())
    assert not uses_fused("slices", CPU)
    assert str(choice).startswith("general: ")


def test_fused_kernels_without_an_accelerator_are_refused():
    with pytest.raises(JobError, match="there is no accelerator"):
        choose_kernels("fused", Mesh(0, 1, CPU))


def test_fused_kernels_without_triton_are_refused_and_auto_does_without():
    program = (
        "import sys, torch; sys.modules['triton'] = None\n"
        "from bluesky_multislice.parallel import Mesh\n"
        "from bluesky_multislice.solvers import choose_kernels\n"
        "for device in ('cpu', 'cuda'):\n"
        "    print(choose_kernels('auto', Mesh(0, 1, torch.device(device))))\n"
        "choose_kernels('fused', Mesh(0, 1, torch.device('cpu')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "general: the job computes on processors\ngeneral: Triton is not installed\n"
    assert "JobError" in done.stderr
    assert "Triton is not installed" in done.stderr


def test_auto_takes_the_parts_that_agree():
    choice = choice_from_differences("auto", ALIKE | {"turns": 2 * AGREEMENT, "graphs": float("inf")}, "cuda")
    assert choice.fused == ("slices", "descent")
    assert "2.0e-05 (turns)" in choice.reason
    use_kernels(choice)
    assert uses_fused("slices", torch.device("cuda", 0))
    assert not uses_fused("turns", torch.device("cuda", 0))
    assert not uses_fused("slices", CPU)
    assert kernels_in_use() is choice


def test_fused_kernels_that_do_not_agree_are_refused():
    with pytest.raises(JobError, match=r"1\.0e-04 \(descent\)"):
        choice_from_differences("fused", ALIKE | {"descent": 1e-4}, "cuda")


def test_fused_kernels_serve_where_only_graphs_fail():
    assert "graphs" not in choice_from_differences("fused", ALIKE | {"graphs": float("inf")}, "cuda").fused


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A cache folder of its own, and how often kernels were compared."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compare(device):
        calls.append(device)
        return dict(list(ALIKE.items())[:3])

    return tmp_path / "bluesky-multislice" / "kernels.json", calls, compare


def test_a_comparison_is_kept_for_the_next_start(counted):
    file, calls, compare = counted
    assert [cached_or_measured_differences(CPU, compare) for _ in range(2)] == [dict(list(ALIKE.items())[:3])] * 2
    assert calls == [CPU]
    ((key, kept),) = json.loads(file.read_text()).items()
    assert kept["turns"] == 2e-7
    assert f"torch {torch.__version__}" in key
    assert "triton" in key


def test_another_version_compares_again(counted):
    file, calls, compare = counted
    cached_or_measured_differences(CPU, compare)
    file.write_text(file.read_text().replace("torch 2", "torch 1"))
    cached_or_measured_differences(CPU, compare)
    assert len(calls) == 2
    assert len(json.loads(file.read_text())) == 2


@pytest.mark.parametrize("text", ["", '{"torn', "[1, 2]", '{"a": 3}'])
def test_a_torn_file_costs_a_comparison(counted, text):
    file, calls, compare = counted
    file.parent.mkdir()
    file.write_text(text)
    cached_or_measured_differences(CPU, compare)
    cached_or_measured_differences(CPU, compare)
    assert calls == [CPU]


def test_a_folder_that_cannot_be_written_costs_a_comparison_each_time(counted):
    file, calls, compare = counted
    file.parent.write_text("a file where the folder would be")
    assert [cached_or_measured_differences(CPU, compare) for _ in range(2)] == [dict(list(ALIKE.items())[:3])] * 2
    assert len(calls) == 2


def test_a_comparison_that_failed_is_not_kept(counted):
    file, _, _ = counted
    cached_or_measured_differences(CPU, lambda device: {"slices": float("inf"), "turns": 0.0, "descent": 0.0})
    assert not file.exists()
