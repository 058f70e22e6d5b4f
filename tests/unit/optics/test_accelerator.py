"""Devices are emulated by what the module asks PyTorch; it computes on none of them."""

import os
import sys
from pathlib import Path

import pytest
import torch
from emulated_accelerators import MODULE, emulate

from bluesky_multislice.errors import PlanError
from bluesky_multislice.optics import accelerator
from bluesky_multislice.optics.accelerator import (
    Accelerator,
    accelerator_type,
    backend_of,
    resolve_device_type,
    visible_accelerators,
)

GPU_BYTES = 80 * 10**9


@pytest.mark.parametrize(
    ("kind", "device", "chosen"),
    [
        ("cuda", "auto", "cuda"),
        ("cuda", "gpu", "cuda"),
        ("cuda", "cuda", "cuda"),
        ("cuda", "cpu", "cpu"),
        ("xpu", "auto", "xpu"),
        ("xpu", "gpu", "xpu"),
        ("xpu", "xpu", "xpu"),
    ],
)
def test_a_device_of_the_recipe_means_what_is_there(monkeypatch, kind, device, chosen):
    emulate(monkeypatch, GPU_BYTES, kind=kind)
    assert resolve_device_type(device) == chosen


@pytest.mark.parametrize(("kind", "device"), [("cuda", "xpu"), ("xpu", "cuda")])
def test_a_gpu_of_another_maker_is_not_taken(monkeypatch, kind, device):
    emulate(monkeypatch, GPU_BYTES, kind=kind)
    with pytest.raises(PlanError, match=f"device {device} needs a GPU.*those of type {kind}"):
        resolve_device_type(device)


@pytest.mark.parametrize("device", ["gpu", "cuda", "xpu"])
@pytest.mark.parametrize("kind", [None, "mps", "cuda"])
def test_a_gpu_that_is_not_there_is_refused_and_auto_takes_processors(monkeypatch, kind, device):
    emulate(monkeypatch, kind=kind)
    why = "sees no device" if kind == "cuda" else "built without any"
    with pytest.raises(PlanError, match=f"device {device} needs a GPU.*{why}"):
        resolve_device_type(device)
    assert resolve_device_type("auto") == "cpu"
    assert accelerator_type() == ("cuda" if kind == "cuda" else None)
    assert visible_accelerators() == ()


def test_an_empty_mask_is_said(monkeypatch):
    emulate(monkeypatch, kind="cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(PlanError, match="sees no device with CUDA_VISIBLE_DEVICES='' in the environment"):
        resolve_device_type("gpu")


def test_ranks_talk_by_the_library_of_their_device():
    assert [backend_of(torch.device(kind)) for kind in ("cpu", "cuda", "xpu")] == ["gloo", "nccl", "xccl"]


IN_ANOTHER_PROCESS = """
import types, torch
properties = types.SimpleNamespace(name="emulated GPU", total_memory=80_000_000_000)
module = types.SimpleNamespace(device_count=lambda: 2, get_device_properties=lambda index: properties)
torch.accelerator.current_accelerator = lambda: torch.device("xpu")
torch.get_device_module = lambda kind: module
"""


def ask_another_process(monkeypatch, tmp_path, prepared, count):
    (tmp_path / "sitecustomize.py").write_text(prepared)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(f"{MODULE}._built_for", lambda: "xpu")
    monkeypatch.setattr(f"{MODULE}._device_count", lambda kind: count)
    # Asked again in this test, whatever others have asked.
    monkeypatch.setenv("ZE_AFFINITY_MASK", str(tmp_path))
    return visible_accelerators()


def test_names_and_memory_come_from_another_process(monkeypatch, tmp_path):
    """A context in this one would need a build for accelerators, which this is not."""
    found = ask_another_process(monkeypatch, tmp_path, IN_ANOTHER_PROCESS, 2)
    assert found == 2 * (Accelerator("emulated GPU", GPU_BYTES),)


@pytest.mark.parametrize(
    ("prepared", "said"),
    [("", "none that PyTorch can use"), ("raise SystemExit('driver is too old')", "driver is too old")],
)
def test_gpus_that_do_not_answer_are_an_error(monkeypatch, tmp_path, prepared, said):
    with pytest.raises(PlanError, match=f"{said}.*device cpu"):
        ask_another_process(monkeypatch, tmp_path, prepared, 2)


ASKED = "is_available device_count get_device_name get_device_properties mem_get_info set_device synchronize".split()


def test_only_one_module_asks_pytorch_for_accelerators():
    package = Path(accelerator.__file__).parents[1]
    words = [f"torch.{kind}.{asked}" for kind in ("cuda", "xpu", "accelerator") for asked in ASKED]
    asking = {path.name for path in package.rglob("*.py") if any(word in path.read_text() for word in words)}
    assert not asking - {"accelerator.py"}
