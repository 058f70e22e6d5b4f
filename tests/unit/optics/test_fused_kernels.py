"""Fused kernels under Triton's interpreter give what the general ones give; they compile for GPUs that are not here."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bluesky_multislice.optics import triton_rotation, triton_slices
from bluesky_multislice.solvers.optimisers import triton_descent

ROUNDING = 1e-6
"""Relative difference, many times under what a job accepts."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Where a job keeps that fused kernels agree; a later job with the same driver does not compare again."""
    return tmp_path_factory.mktemp("cache")


def interpreted(group, cache):
    """Differences by case, from a process of its own: Triton asks for its interpreter when a kernel is made."""
    tests = Path(__file__).parents[2]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "XDG_CACHE_HOME": str(cache),
        "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, str(tests / "interpreted_kernels.py"), group],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("group", ["slices", "chains", "turns", "slabs"])
def test_values_and_gradients_are_those_of_the_general_kernels(group, cache):
    differences = interpreted(group, cache)
    assert len(differences) > 0
    assert {case: difference for case, difference in differences.items() if not difference < ROUNDING} == {}


def test_a_job_that_asks_for_fused_kernels_compares_them_and_gets_them(cache):
    choice = interpreted("choices", cache)["choice"]
    assert choice["asked"] == "fused"
    assert choice["fused"] == ["slices", "turns", "descent"]
    assert max(choice["differences"].values()) < ROUNDING


@pytest.mark.parametrize("optimiser", ["nesterov", pytest.param("adam", marks=pytest.mark.matrix)])
def test_a_whole_fit_gives_the_same_volume(optimiser, cache):
    differences = interpreted(optimiser, cache)
    assert set(differences) == {"δ", "β"}
    assert max(differences.values()) < 1e-5


REALS = "delta beta in_delta in_beta volume image gradient before behind weight numbers".split()
POINTERS = dict.fromkeys(REALS, "*fp32") | dict.fromkeys(("h", "wave", "out", "rotation"), "*i64")
POINTERS |= {"first": "*i32", "support": "*u8"}
NUMBERS = dict.fromkeys(
    "strength length momentum squares total_variation stretch floor smoothness_z magnitude least most".split(), "fp32"
)
MOVES = dict.fromkeys(
    ("ADAM", "MAGNITUDE", "DIFFERENCES", "BEFORE", "BEHIND", "WEIGHTED", "SUPPORTED", "POSITIVE", "LEAST", "MOST"), True
)
KERNELS = {
    "shared": (triton_slices.transmit_planes, {"OWN": False, "STORED": False, "BLOCK": 256}),
    "own": (triton_slices.transmit_planes, {"OWN": True, "STORED": True, "BLOCK": 256}),
    "windows": (triton_slices.transmit_windows, {"STORED": False, "BLOCK": 256}),
    "back own": (triton_slices.back_own, {"UNDO": True, "STORED": False, "BLOCK": 256}),
    "back shared": (
        triton_slices.back_shared,
        {"WINDOWED": False, "UNDO": True, "STORED": False, "HEIGHT": 1, "WIDTH": 256},
    ),
    "back windows": (
        triton_slices.back_shared,
        {"WINDOWED": True, "UNDO": True, "STORED": True, "HEIGHT": 4, "WIDTH": 64},
    ),
    "turn": (triton_rotation.rotate_planes, {"REACH": 1, "SLOPE": False, "X": 16, "Y": 64}),
    "cubic slope": (triton_rotation.rotate_planes, {"REACH": 2, "SLOPE": True, "X": 16, "Y": 64}),
    "turn back": (triton_rotation.rotate_planes_transposed, {"REACH": 2, "X": 16, "Y": 64}),
    "adam": (triton_descent.move_voxels, MOVES | {"PARTS": 2, "X": 8, "Y": 64}),
    "nesterov": (triton_descent.move_voxels, MOVES | {"ADAM": False, "PARTS": 1, "X": 8, "Y": 64}),
}


def compiled(name, architecture):
    """The machine code and the text that a kernel becomes for an NVIDIA GPU; arrays begin at multiples of 16 bytes."""
    kernel, constants = KERNELS[name]
    names = [parameter.name for parameter in kernel.params]
    own = {"first": "*fp32", "second": "*fp32"} if kernel is triton_descent.move_voxels else {}
    types = dict.fromkeys(names, "i32") | POINTERS | own | NUMBERS | dict.fromkeys(constants, "constexpr")
    if constants.get("STORED"):
        types["strength"] = "*fp64"
    aligned = [
        (number,)
        for number, name in enumerate(names)
        if types[name].startswith("*") or name in ("nx", "ny", "row", "pixels", "along_y")
    ]
    source = ASTSource(
        kernel,
        {name: types[name] for name in names},
        constexprs=constants,
        attrs={place: [["tt.divisibility", 16]] for place in aligned},
    )
    warps = 8 if constants.get("WINDOWED") or kernel is triton_descent.move_voxels else 4
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options={"num_warps": warps}).asm


def cuobjdump():
    return triton.knobs.nvidia.cuobjdump.path


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_without_atomic_additions_and_spilled_registers(name, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    code = compiled(name, architecture)
    assert len(code["cubin"]) > 1000
    assert not re.search(r"\b(atom|red)\.", code["ptx"]), "runs would not repeat bit by bit"
    (tmp_path / "cubin").write_bytes(code["cubin"])
    used = subprocess.run([cuobjdump(), "-res-usage", tmp_path / "cubin"], capture_output=True, text=True, check=True)
    assert "STACK:0 " in used.stdout, "registers are spilled"
    assert "LOCAL:0 " in used.stdout, "registers are spilled"


@pytest.mark.parametrize("name", ["shared", "own", "back own", "back shared"])
def test_waves_of_whole_planes_are_read_and_written_16_bytes_at_a_time(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    text = compiled(name, 90)["ptx"]
    assert re.search(r"ld\.global\S*\.v2\.b64", text)
    assert re.search(r"st\.global\S*\.v2\.b64", text)
    assert not re.search(r"(ld|st)\.shared", text), "layouts of waves and planes differ"
