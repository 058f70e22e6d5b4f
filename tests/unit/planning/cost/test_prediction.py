"""What a plan is said to cost, against what is counted where it is computed."""

import json
import math
from dataclasses import astuple, replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from small_scan import VOXEL_M, blank, hologram_geometry, pattern_scan
from torch.utils._python_dispatch import TorchDispatchMode

from bluesky_multislice.cli import commands
from bluesky_multislice.errors import PlanError
from bluesky_multislice.files import write_scan
from bluesky_multislice.measurement import Beam, Detector, Frames, Scan, ScanGeometry
from bluesky_multislice.models import FrameTiles
from bluesky_multislice.optics import interpolation
from bluesky_multislice.parallel import Mesh, Slab, join_mesh
from bluesky_multislice.planning import (
    Machine,
    MachineProfile,
    exchange_of,
    make_plan,
    measure_machine,
    predict_cost,
    read_profile,
    work_of,
    write_profile,
)
from bluesky_multislice.planning.cost import memory_parts
from bluesky_multislice.planning.cost.prediction import reduced_bytes
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction.fit_sequence import load_data
from bluesky_multislice.solvers import Unknowns, fit, split_views

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


def plan_of(geometry, **recipe):
    return make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), blank(geometry))


def two_windows(rows=(0, 4), window=8, height=12):
    """The geometry of patterns of one position after the other along y, at two angles, on a volume so high."""
    at = (np.array(rows) - (height - window) / 2) * VOXEL_M
    positions = np.tile(np.stack([at, np.zeros(len(at))], 1), (2, 1))
    return ScanGeometry(
        "ptychography",
        Beam(0.8e-9),
        Detector((window, window), (55e-6, 55e-6), "far_field"),
        np.full(2 * len(at), VOXEL_M * window * 55e-6 / 0.8e-9),
        np.repeat([0.0, 1.0], len(at)),
        positions,
    )


class CountedTransforms(TorchDispatchMode):
    """Adds up the planes that FFTs of waves go over, those of hand-written and automatic gradients alike."""

    def __init__(self, window):
        super().__init__()
        self.window, self.planes = math.prod(window), 0.0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if str(func) in ("aten._fft_c2c.default", "aten._fft_r2c.default"):
            self.planes += args[0].numel() * len(args[1]) / 2 / self.window
        elif str(func) == "aten._fft_c2r.default":
            self.planes += args[0].numel() / args[0].shape[-1] * args[3] * len(args[1]) / 2 / self.window
        return func(*args, **(kwargs or {}))


def counted_pairs(scan, plan):
    """FFT pairs of the second epoch of a fit of one rank."""
    counts = []
    with join_mesh("cpu") as mesh:
        data = load_data(scan, plan, *split_views(scan.geometry.views, plan.held_back_every), scale=1.0, mesh=mesh)
        model = plan.forward_model(scan.geometry)
        probe = torch.ones((plan.probe_modes, *model.window), dtype=torch.complex64)
        unknowns = Unknowns(model, probe, plan.fit, mesh.device)
        with CountedTransforms(model.window) as counted:
            fit(unknowns, data.fitted, data.held_back, mesh, lambda epoch: counts.append(counted.planes))
    return (counts[1] - counts[0]) / 2


def noise(geometry):
    frames = np.random.default_rng(0).poisson(20, (geometry.views, *geometry.detector.shape)).astype(np.float32)
    return Scan(geometry, Frames(frames))


HOLOGRAMS = {"slices": 3, "epochs": 2, "held_back_every": 4, "start": "empty", "find_axis": False}


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"propagation": "projection"},
        {"refine_probe": True, "probe_modes": 2},
        {"edges": "outgoing"},
        {"point_spread_pixels": 1.0},
        {"batches_per_step": 3, "batch_views": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("gradient", ["stored", "recomputed"])
def test_pairs_of_holograms_are_those_that_a_fit_takes(recipe, gradient):
    scan = noise(hologram_geometry(n=16, angles=8))
    plan = replace(make_plan(Recipe(ranks=1, device="cpu", **(HOLOGRAMS | recipe)), scan), gradient=gradient)
    assert work_of(plan, scan.geometry).pairs == counted_pairs(scan, plan)


@pytest.mark.parametrize("gradient", ["stored", "recomputed"])
def test_pairs_of_tiles_count_by_their_pixels(gradient):
    scan = noise(hologram_geometry(n=32, angles=4))
    plan = make_plan(Recipe(ranks=1, device="cpu", **HOLOGRAMS), scan)
    plan = replace(plan, propagation="tiled-multislice", tiles=(2, 3), halo=3, gradient=gradient)
    assert work_of(plan, scan.geometry).pairs == pytest.approx(counted_pairs(scan, plan), rel=1e-12)


def test_pairs_of_tiles_of_frames_are_those_that_ranks_take(monkeypatch):
    # One process computes the tiles of both, and has all rows at hand.
    monkeypatch.setattr(Slab, "gather", lambda slab, planes, wanted: planes[..., slice(*wanted[slab.mesh.slab]), :])
    geometry, pairs = hologram_geometry(n=64, angles=4), []
    plan = plan_of(geometry, mesh="1x2", ranks=None, held_back_every=0, slices=3)
    plan = replace(plan, frame_tiles=FrameTiles((0, 40, 64), 9))
    window = plan.forward_model(geometry).window
    for rank in range(2):
        model = plan.forward_model(geometry, Slab(Mesh(rank, 2, torch.device("cpu"), 2), 64))
        delta, probe = torch.zeros(plan.grid.shape, requires_grad=True), torch.ones((1, *window), dtype=torch.complex64)
        with CountedTransforms(window) as counted:
            for view in range(4):
                model(delta, delta, probe, [view]).sum().backward()
        pairs.append(counted.planes / 2)
    work = work_of(plan, geometry)
    assert work.pairs == pytest.approx(sum(pairs), rel=1e-12)
    assert work.most_pairs == pytest.approx(pairs[0], rel=1e-12)
    assert pairs[0] > pairs[1]


@pytest.mark.parametrize(
    "recipe", [{}, {"refine_quantities": True}, {"probe_modes": 2, "refine_probe": False}], ids=str
)
def test_pairs_of_patterns_are_those_that_a_fit_takes(recipe):
    scan = noise(pattern_scan(angles=2)[0].geometry)
    if recipe.pop("refine_quantities", False):
        # Without frames held back, whose positions follow in passes that are not counted.
        recipe = {"refine": {"quantities": ("positions",)}, "held_back_every": 0}
    plan = make_plan(Recipe(**({"ranks": 1, "device": "cpu", "slices": 3, "epochs": 2} | recipe)), scan)
    assert work_of(plan, scan.geometry).pairs == counted_pairs(scan, plan)


@pytest.mark.parametrize(("mesh", "turns"), [("2x1", 16), ("1x2", 32)])
def test_work_is_shared_among_ranks(mesh, turns):
    geometry = hologram_geometry(n=16, angles=8)
    work = work_of(plan_of(geometry, held_back_every=0, mesh=mesh, ranks=None), geometry)
    assert work.most_pairs == work.pairs / 2
    # Every rank of an angle turns its rows of δ and β, there and back.
    assert work.most_rotations == turns


def test_matrices_of_few_angles_are_made_once_and_those_of_many_each_time(monkeypatch):
    monkeypatch.setattr(interpolation, "_KEPT_BYTES", 16 * interpolation.bytes_per_rotation(16**2, "linear"))
    few, many = (hologram_geometry(n=16, angles=angles) for angles in (16, 18))
    assert work_of(plan_of(few, held_back_every=0), few).most_matrices == 0
    assert work_of(plan_of(many, held_back_every=0), many).most_matrices == 18
    # Shears in Fourier space take none.
    assert work_of(plan_of(many, held_back_every=0, interpolation="fourier"), many).most_matrices == 0
    # Two groups of ranks turn to nine angles each.
    assert work_of(plan_of(many, held_back_every=0, mesh="2x1", ranks=None), many).most_matrices == 0
    plan = plan_of(many, held_back_every=0)
    with_matrices = predict_cost(plan, many, accelerator=False, profile=PROFILE).seconds.rotations
    free = PROFILE.model_copy(update={"rotation_matrix_seconds_per_pixel": 1e-30})
    assert with_matrices - predict_cost(plan, many, accelerator=False, profile=free).seconds.rotations == pytest.approx(
        18 * 16**2 * 1e-6
    )


def test_groups_of_ranks_share_the_regularisers_and_what_moves():
    geometry = hologram_geometry(n=16, angles=8)
    plan = plan_of(geometry, held_back_every=0, mesh="2x1", ranks=None)
    cost = predict_cost(plan, geometry, accelerator=False, profile=PROFILE)
    assert cost.seconds.steps == pytest.approx(cost.work.steps * 2 * 16**3 * (3e-9 / 2 + 5e-9 / 2))
    bare = plan_of(geometry, held_back_every=0, mesh="2x1", ranks=None, total_variation=0.0)
    cost = predict_cost(bare, geometry, accelerator=False, profile=PROFILE)
    assert cost.seconds.steps == pytest.approx(cost.work.steps * 2 * 16**3 * 3e-9 / 2)


def test_finite_differences_have_no_pairs_inside_and_no_time():
    geometry = hologram_geometry(n=16, angles=8)
    plan = plan_of(geometry, propagation="finite-difference", held_back_every=0)
    cost = predict_cost(plan, geometry, accelerator=False, profile=PROFILE)
    assert cost.seconds is None
    assert cost.work.pairs < work_of(plan_of(geometry, held_back_every=0), geometry).pairs


def test_rows_that_travel_are_counted_by_hand():
    geometry = two_windows()
    plan = plan_of(geometry, mesh="1x2", ranks=None, held_back_every=0, batch_views=2, batches_per_step=1, slices=2)
    assert plan.grid.shape[1] == 12
    # Slabs of rows 0-5 and 6-11, windows of rows 0-7 and 4-11: each rank needs two rows, at two angles, there and back.
    row = 2 * plan.grid.shape[2] * 4
    exchange = exchange_of(plan, geometry)
    assert exchange.rows == 2 * 2 * 2 * 2 * plan.slices * row
    assert exchange.priors == 2 * 2 * plan.grid.shape[0] * row * plan.fit.priors.weighted
    # Half of every window's rows lies elsewhere if any view may be anywhere.
    assert exchange.strips == 4 * 2 * 4 * plan.slices * row
    assert exchange_of(replace(plan, ranks=1, slabs=1), geometry).rows == 0


def test_rows_of_frames_held_back_travel_once():
    geometry = two_windows()
    plan = plan_of(geometry, mesh="1x2", ranks=None, held_back_every=0, batch_views=2, batches_per_step=1, slices=2)
    held = replace(plan, held_back_every=2)
    assert exchange_of(held, geometry).rows == exchange_of(plan, geometry).rows * 3 / 4


def test_gradients_of_groups_are_added_up_in_a_ring():
    plan = plan_of(hologram_geometry(n=16, angles=8), mesh="4x1", ranks=None)
    assert reduced_bytes(plan, steps=5) == 5 * 4 * (2 * 3 / 4) * 2 * 4 * math.prod(plan.grid.shape)
    assert reduced_bytes(replace(plan, slabs=4), steps=5) == 0


@pytest.mark.parametrize("accelerator", [True, False])
@pytest.mark.parametrize("mesh", ["1x1", "1x2"])
def test_parts_of_memory_add_up_to_the_plan(accelerator, mesh):
    geometry = hologram_geometry(n=64, angles=20)
    ranks = math.prod(int(n) for n in mesh.split("x"))
    plan = make_plan(Recipe(mesh=mesh), blank(geometry), Machine(ranks, ranks, 10**11, accelerator))
    parts = memory_parts(plan, geometry, accelerator)
    assert parts.total == plan.memory_bytes == int(sum(astuple(parts)))
    assert (parts.program == 0) == accelerator
    assert (parts.exchange > 0) == (mesh == "1x2")
    assert all((size > 0) == accelerator for size in (parts.context, parts.transforms, parts.allocator))


def test_time_is_that_of_the_busiest_rank():
    geometry = hologram_geometry(n=64, angles=8, distance_m=1e-12)
    plan = plan_of(geometry, mesh="1x2", ranks=None, held_back_every=0)
    cost = predict_cost(plan, geometry, accelerator=False, profile=PROFILE)
    window = (64 + 2 * plan.margin) ** 2
    # Each angle's one view is computed by one rank, for which the other waits.
    assert cost.work.awaited_pairs == cost.work.pairs == 2 * cost.work.most_pairs
    assert cost.seconds.slices == pytest.approx(cost.work.awaited_pairs * PROFILE.slice_pair(window))
    assert cost.useful == pytest.approx(cost.work.most_pairs * PROFILE.fft_pair(window) / cost.seconds.total)
    # Eight angles in one step or more, each a batch of its own.
    assert cost.seconds.batches == pytest.approx(8 * 1e-3)
    assert cost.seconds.rotations == pytest.approx(
        cost.work.most_rotations * 64**2 / 2 * (64 * 1e-8 + plan.slices * 2e-8)
    )
    assert cost.seconds.steps == pytest.approx(cost.work.steps * 2 * 64**3 / 2 * (3e-9 + 5e-9))
    assert cost.seconds.exchange == pytest.approx(cost.sent_bytes / 2 / 1e9)
    assert cost.seconds.total == pytest.approx(sum(astuple(cost.seconds)))
    unknown = predict_cost(
        plan, geometry, accelerator=False, profile=PROFILE.model_copy(update={"exchange_bytes_per_s": None})
    )
    assert unknown.seconds.exchange is None
    assert predict_cost(plan, geometry, accelerator=False, profile=None).seconds is None


def test_a_profile_gives_the_times_measured_and_those_between():
    assert PROFILE.slice_pair(64**2) == pytest.approx(2e-4)
    assert PROFILE.fft_pair(128**2) == pytest.approx(6e-4)
    assert 2e-4 < PROFILE.slice_pair(90**2) < 1e-3
    assert PROFILE.slice_pair(256**2) == pytest.approx(4 * 16 / 14 * 1e-3, rel=1e-4)


def test_a_machine_is_measured_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_multislice.planning.cost.machine_profile._SIDE", 16)
    profile = measure_machine("cpu", sides=(16, 32), least_s=0.0)
    assert set(profile.slice_pair_s) == set(profile.fft_pair_s) == {16, 32}
    assert profile.exchange_bytes_per_s > 1e5
    write_profile(tmp_path / "profile.json", profile)
    assert read_profile(tmp_path / "profile.json") == profile


@pytest.mark.parametrize("text", [None, "no json", json.dumps({"machine": "a"}), json.dumps({"speed": 1})])
def test_a_file_that_is_no_profile_is_refused(tmp_path, text):
    path = tmp_path / "profile.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match="plan --measure"):
        read_profile(path)
    with pytest.raises(PlanError, match="can be written"):
        write_profile(tmp_path / "no folder" / "profile.json", PROFILE)


def planned(*options):
    return CliRunner().invoke(commands.multislice, ["plan", *map(str, options)], catch_exceptions=True)


def test_plan_of_sizes_says_memory_exchange_and_work(tmp_path):
    text = planned("--volume", 32, "--angles", 6, "--mesh", "1x2", "--device", "cpu").output
    for said in (
        "volume (32, 32, 32)",
        "mesh 1x2",
        "memory per rank",
        "rows and their gradients",
        "from the data sheet, not measured",
    ):
        assert said in text
    write_profile(tmp_path / "profile.json", PROFILE)
    options = ("--volume", 32, "--angles", 6, "--device", "cpu", "--ranks", 1, "--profile", tmp_path / "profile.json")
    assert "epochs" in planned(*options).output.partition("time per epoch ")[2]
    patterns = planned("--volume", 40, "--angles", 2, "--frame", 16, "--views-per-angle", 9, "--ranks", 1).output
    assert "volume (40, 40, 40)" in patterns
    assert "18 views at 2 angles" in patterns
    finer = planned("--volume", 32, "--angles", 6, "--ranks", 1, "--pixel-nm", 0.5, "--energy-kev", 8)
    assert "of 0.5 nm, 4 slices" in finer.output


def test_plan_of_a_file_and_a_site(tmp_path):
    write_scan(tmp_path / "scan.cxi", noise(hologram_geometry(n=16, angles=8)))
    text = planned(tmp_path / "scan.cxi", "--ranks", 2, "--device", "cpu").output
    assert "volume (16, 16, 16)" in text
    assert "program" in text
    site = tmp_path / "site.toml"
    site.write_text('name = "a cluster"\nscheduler = "slurm"\nnodes = 2\ngpus_per_node = 2\ngpu_memory_gb = 2\n')
    on_site = planned(tmp_path / "scan.cxi", "--site", site, "--ranks", 2)
    assert "mesh 2x1" in on_site.output
    of_gpu, of_node = on_site.output.split("host memory per rank")
    for part in ("context", "FFT work area", "allocator", "propagators", "5% of the GPU"):
        assert part in of_gpu
        assert part not in of_node
    assert "communication buffers" in of_gpu
    assert "program" not in of_gpu
    assert "program" in of_node


def test_plan_for_gpus_counts_their_memory_and_refuses_what_does_not_fit():
    options = ("--volume", 32, "--angles", 6, "--ranks", 2)
    assert "program" not in planned(*options, "--gpu-memory-gb", 2).output.split("host memory per rank")[0]
    assert isinstance(planned(*options, "--gpu-memory-gb", 0.001).exception, PlanError)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--scaling", "--volume", 32),
        ("--volume", 32, "--views-an-angle", 3, "--frame", 8),
        ("--volume", 32, "--frame", 64, "--views-per-angle", 4),
        ("--volume", 32, "--frame", 16),
        ("--scaling", "--angles", 3),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_refused(options):
    assert isinstance(planned(*options).exception, PlanError)


def test_measure_writes_what_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr("bluesky_multislice.planning.measure_machine", lambda device: PROFILE)
    text = planned("--measure", tmp_path / "profile.json").output
    assert "communication: 1 GB/s per rank" in text
    assert read_profile(tmp_path / "profile.json") == PROFILE
