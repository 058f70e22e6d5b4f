"""Machines as their makers describe them, and times that follow."""

from dataclasses import replace

import pytest
from click.testing import CliRunner
from small_scan import blank, hologram_geometry

from bluesky_multislice.cli import commands
from bluesky_multislice.cli.scaling_table import scaling_lines
from bluesky_multislice.planning import Machine, data_sheets, machine_name, make_plan
from bluesky_multislice.planning.cost import reduction_seconds
from bluesky_multislice.planning.cost.prediction import reduced_bytes
from bluesky_multislice.recipe import Recipe


def planned(*options):
    return CliRunner().invoke(commands.multislice, ["plan", *map(str, options)])


@pytest.mark.parametrize("name", data_sheets())
def test_every_sheet_says_its_source_and_gives_times(name):
    sheet = data_sheets()[name]
    assert "data sheet" in sheet.source
    profile = sheet.profile
    assert not profile.measured
    assert profile.slice_pair(256**2) == pytest.approx(sheet.slice_over_fft * profile.fft_pair(256**2))
    # No rate is better than the data sheet's.
    assert profile.fft_pair(1024**2) > 10 * 1024**2 * 20 / sheet.flop_per_s
    assert profile.exchange_bytes_per_s < sheet.link_bytes_per_s


def test_the_command_knows_every_sheet():
    machine = next(option for option in commands.multislice.commands["plan"].params if option.name == "machine")
    assert list(machine.type.choices) == list(data_sheets())


def test_large_ffts_of_a_gpu_take_as_long_as_its_memory():
    sheet = data_sheets()["a100"]
    assert sheet.profile.fft_pair_s[1024] == pytest.approx(64 * 1024**2 / (0.7 * 2.039e12))


@pytest.mark.parametrize(
    ("memory_gb", "cuda", "name"),
    [
        (141, True, "h200"),
        (80, True, "a100"),
        (75, True, "a100"),
        (64, True, "mi250"),
        (40, True, "a100"),
        (9, False, "cpu-node"),
    ],
)
def test_a_machine_is_known_by_its_memory(memory_gb, cuda, name):
    assert machine_name(Machine(8, 8, int(memory_gb * 1e9), cuda)) == name


def test_gradients_of_ranks_on_several_nodes_take_the_network():
    profile = data_sheets()["h100"].profile
    geometry = hologram_geometry(n=64, angles=200)
    plan = make_plan(Recipe(mesh="8x1"), blank(geometry), Machine(16, 8, 10**11, accelerator=True))
    on_one, on_two = plan, replace(plan, ranks=16)
    assert reduction_seconds(on_one, 1, profile) == pytest.approx(reduced_bytes(on_one, 1) / 8 / (0.7 * 4.5e11))
    # Eight adapters of 50 GB/s serve the eight ranks of a node, or each of eight slabs has one.
    assert reduction_seconds(on_two, 1, profile) == pytest.approx(reduced_bytes(on_two, 1) / 16 / (0.7 * 4e11))
    apart = replace(on_two, slabs=8)
    assert reduction_seconds(apart, 1, profile) == pytest.approx(reduced_bytes(apart, 1) / 16 / (0.7 * 5e10))
    unknown = profile.model_copy(update={"exchange_bytes_per_s": None})
    assert reduction_seconds(on_one, 1, unknown) == 0


def test_plan_says_seconds_of_a_machine_that_nobody_has_measured():
    sizes = ("--volume", 32, "--angles", 20, "--ranks", 2)
    text = planned(*sizes, "--machine", "h100").output
    assert "H100 80 GB SXM, times from the data sheet, not measured" in text
    assert "useful work" in text
    assert "GPU context" in text
    on_others = planned(*sizes, "--gpu-memory-gb", 64).output
    assert "MI250" in on_others
    assert "EPYC" in planned(*sizes, "--device", "cpu").output


def test_the_scaling_table_has_a_row_for_every_scan_and_number_of_gpus():
    sheet = data_sheets()["h100"].model_copy(update={"memory_gb": 1.5})
    lines = list(scaling_lines(sheet, sides=(64, 512), gpus=(1, 64)))
    rows = [line for line in lines if line.startswith(("| 64³", "| 512³"))]
    assert len(rows) == 8
    assert all(line.count("|") == lines[2].count("|") for line in rows)
    assert "does not fit" in next(row for row in rows if row.startswith("| 512³ holograms | 1 |"))
    assert "100 %" in rows[0]
