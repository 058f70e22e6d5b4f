"""The GPU benchmark proves itself without a GPU: on a processor, and on the emulated device."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import emulated_device
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu_benchmark
import gpu_report
import torch

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_benchmark.py"
SECTIONS = {section.__name__ for section in gpu_benchmark.SECTIONS}
LARGE = {"pixels": 8 * 512**2, "over_fft": 1.4, "share_of_copy": 0.8}


def run(device, environment):
    """Return the JSON and the report of a quick run."""
    command = [sys.executable, str(SCRIPT), "--device", device, "--quick"]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.matrix,
                pytest.mark.skipif(emulated_device.why_not() is not None, reason=str(emulated_device.why_not())),
            ],
        ),
    ],
)
def test_a_quick_run_fills_every_section_and_meets_the_goals_of_accuracy(device):
    results, report = run(device, emulated_device.environment(devices=2) if device == "cuda" else {})
    assert set(results) == SECTIONS
    assert not [section for section in results if "error" in results[section]], results
    accuracy = [
        goal for goal in gpu_report.goals(results) if goal.what.split(":")[0] in ("propagations", "rotation", "fits")
    ]
    assert len(accuracy) >= 25
    assert all(goal.met for goal in accuracy), report
    assert results["collectives"]["ranks"] == 2
    assert results["machine"]["copy_bytes_per_s"] > 0
    assert {"holograms", "patterns", "patterns of one angle"} == set(results["epochs"])
    assert all(math.isfinite(found["slice_us"]) for found in results["slices"].values())


def test_a_section_that_fails_leaves_the_others(monkeypatch):
    def fails(setting):
        raise ValueError("no such kernel")

    def works(setting):
        return {"figure": 1.0}

    monkeypatch.setattr(gpu_benchmark, "SECTIONS", (fails, works))
    results = gpu_benchmark.measured(gpu_benchmark.Setting(torch.device("cpu"), quick=True))
    assert results["fails"]["error"] == "ValueError: no such kernel"
    assert results["works"] == {"figure": 1.0}
    assert "fails FAILED: ValueError: no such kernel" in gpu_report.table(results)


def epoch(**figures):
    return {"share_on_device": 0.95, "peak_memory_bytes": 90, "planned_memory_bytes": 100} | figures


@pytest.mark.parametrize(
    ("results", "met", "missed"),
    [
        ({"propagations": {"multislice": 1e-6}, "fits": {"patterns": 5e-5}}, 2, 0),
        ({"propagations": {"multislice": 1e-4}, "fits": {"patterns": float("nan")}}, 0, 2),
        ({"slices": {"8 × 512², auto": LARGE}}, 2, 0),
        ({"slices": {"8 × 512², auto": LARGE | {"over_fft": 1.6, "share_of_copy": 0.6}}}, 0, 2),
        ({"slices": {"8 × 512², general": LARGE | {"over_fft": 9.0}}}, 0, 0),
        ({"slices": {"1 × 64², auto": LARGE | {"pixels": 64**2, "over_fft": 9.0}}}, 0, 0),
        ({"epochs": {"patterns": epoch()}}, 2, 0),
        ({"epochs": {"patterns": epoch(share_on_device=0.5, peak_memory_bytes=110)}}, 0, 2),
        ({"epochs": {"patterns": epoch(share_on_device=None, peak_memory_bytes=None)}}, 0, 0),
    ],
)
def test_the_report_says_which_goals_are_met(results, met, missed):
    found = list(gpu_report.goals(results))
    assert [sum(goal.met is each for goal in found) for each in (True, False)] == [met, missed]
    assert gpu_report.table(results).endswith(f"{met} goals met, {missed} missed")


def test_kernels_that_run_at_once_count_once():
    assert gpu_benchmark.covered([(0, 4), (1, 2), (3, 6), (8, 9)]) == 7
