"""How far schemes reach on a machine that nobody has, for the table of docs/scale-out.md."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_scan import blank, hologram_geometry

from bluesky_multislice.planning import MachineProfile, make_plan, write_profile
from bluesky_multislice.planning.cost import memory_parts
from bluesky_multislice.recipe import Recipe

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from exascale_table import STATE_BYTES, Case, Supercomputer, main, outlook

PROFILE = MachineProfile(
    machine="a machine",
    device="cpu",
    threads=1,
    fft_pair_s={64: 1e-4, 128: 6e-4},
    slice_pair_s={64: 2e-4, 128: 1e-3},
    rotation_seconds_per_voxel=1e-8,
    slice_rotation_seconds_per_voxel=2e-8,
    rotation_matrix_seconds_per_pixel=1e-6,
    batch_s=1e-3,
    optimiser_seconds_per_voxel=3e-9,
    regulariser_seconds_per_voxel=5e-9,
    exchange_bytes_per_s=1e9,
)

CASE = Case(4096, 1e-8, 1e-10, 0.06, 25)
MACHINE = Supercomputer(1000, 4, 64e9, 1e10, 1e-12)


def test_the_state_of_the_table_is_that_of_a_plan():
    geometry = hologram_geometry(n=64, angles=20)
    plan = make_plan(Recipe(ranks=1, device="cpu"), blank(geometry))
    assert memory_parts(plan, geometry, True).volumes == STATE_BYTES * 64**3


def test_a_volume_that_no_gpu_holds_needs_slabs_and_one_whose_field_none_holds_needs_tiles():
    whole, slabs, tiles = (outlook(CASE, scheme, MACHINE) for scheme in ("data parallelism", "slabs", "tiles"))
    assert (whole.nodes, whole.hours, whole.slabs) == (None, None, 1)
    assert whole.memory_bytes > STATE_BYTES * 4096**3
    assert slabs.slabs > 1
    assert CASE.memory_bytes(slabs.slabs, 4096) <= 64e9 < CASE.memory_bytes(slabs.slabs - 1, 4096)
    assert tiles.slabs <= slabs.slabs
    deeper = replace(CASE, side=32768)
    assert outlook(deeper, "slabs", MACHINE).nodes is None
    assert outlook(deeper, "tiles", replace(MACHINE, nodes=20_000, gpu_memory_bytes=1e11)).nodes is not None


def test_hours_follow_speed_network_and_epochs():
    usual = outlook(CASE, "slabs", MACHINE).hours
    assert outlook(CASE, "slabs", replace(MACHINE, pair_seconds_per_pixel=None)).hours is None
    assert outlook(replace(CASE, epochs=50), "slabs", MACHINE).hours == pytest.approx(2 * usual)
    assert outlook(CASE, "slabs", replace(MACHINE, network_bytes_per_s=1e11)).hours < usual
    assert outlook(CASE, "slabs", replace(MACHINE, pair_seconds_per_pixel=1e-11)).hours > usual
    assert outlook(CASE, "slabs", replace(MACHINE, rotation_seconds_per_voxel=1e-12)).hours > usual
    assert outlook(CASE, "slabs", replace(MACHINE, rotation_matrix_seconds_per_pixel=1e-9)).hours > usual
    small = replace(CASE, side=256)
    assert outlook(small, "data parallelism", MACHINE).nodes == math.ceil(small.angles / 4)
    assert outlook(small, "data parallelism", replace(MACHINE, nodes=1)).nodes == 1


def test_the_table_has_hours_only_with_a_profile(tmp_path, capsys):
    main([])
    without = capsys.readouterr().out
    assert "does not fit" in without
    assert "no hours" in without
    rows = [line for line in without.splitlines() if line.startswith("| 1,000,000")]
    assert len(rows) == 3
    write_profile(tmp_path / "profile.json", PROFILE)
    machine = ("--nodes", 10, "--gpus-per-node", 2, "--network-gb-s", 3, "--times-faster", 7)
    main([str(word) for word in ("--profile", tmp_path / "profile.json", *machine, "--epochs", 3)])
    text = capsys.readouterr().out
    for said in ("10 nodes of 2 GPUs", "3 GB/s", "a GPU 7 times", "3 epochs"):
        assert said in text
