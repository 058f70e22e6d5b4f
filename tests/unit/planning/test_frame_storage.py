"""Where frames are kept, and what a machine has room for."""

import math
import os
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from emulated_accelerators import emulate
from small_scan import blank, hologram_geometry

from bluesky_multislice.errors import PlanError
from bluesky_multislice.planning import Machine, host_memory_parts, make_plan, out_of_memory
from bluesky_multislice.planning.cost import memory_parts
from bluesky_multislice.recipe import Recipe


def plan_of(geometry, **recipe):
    return make_plan(Recipe(**({"ranks": 1, "device": "cpu"} | recipe)), blank(geometry))


@pytest.fixture
def machine(monkeypatch):
    """Gives the machine another size of memory."""

    def of(room_bytes):
        sizes = {"SC_PHYS_PAGES": room_bytes // os.sysconf("SC_PAGE_SIZE")}
        size = os.sysconf
        monkeypatch.setattr(os, "sysconf", lambda name: sizes.get(name) or size(name))

    return of


@pytest.mark.parametrize(("part", "place"), [(7, "disk"), (9, "memory")])
def test_frames_stay_on_disk_where_they_take_more_than_an_eighth_of_the_memory(machine, part, place):
    geometry = hologram_geometry(n=16, angles=200_000)
    machine(part * 200_000 * 16 * 16 * 4)
    assert plan_of(geometry).frames_in == place


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_recipe_says_where_frames_are_kept(place):
    assert plan_of(hologram_geometry(), frames_in=place).frames_in == place


FRAME = 128 * 128 * 4
"""Bytes of a frame."""


def in_frames_memory(frames, views=12, mesh="1x1", **recipe):
    """A plan with room for so many frames of 128² a rank."""
    settings = {"mesh": mesh, "device": "cpu", "batch_views": 2, "frames_memory_gib": frames * FRAME / 2**30}
    return make_plan(
        Recipe(**(settings | recipe)), blank(several_views(128, views)), Machine(8, 8, 10**11, accelerator=False)
    )


@pytest.mark.parametrize(
    ("frames", "mesh", "place", "ahead"),
    [
        (12, "1x1", "memory", 1),
        (11.9, "1x1", "disk", 1),
        (4, "1x1", "disk", 1),
        (3.9, "1x1", "disk", 0),
        (2, "1x1", "disk", 0),
        (6, "2x1", "memory", 1),
        (5.9, "2x1", "disk", 1),
        (7, "1x2", "memory", 1),
    ],
)
def test_frames_take_no_more_memory_than_a_recipe_lets_them(frames, mesh, place, ahead):
    plan = in_frames_memory(frames, mesh=mesh)
    assert (plan.frames_in, plan.batches_ahead) == (place, ahead)
    assert memory_parts(plan, several_views(128, 12), accelerator=False).frames <= frames * FRAME


def test_copies_for_coarser_fits_count():
    assert in_frames_memory(14.9, coarse_levels=1).frames_in == "disk"
    assert in_frames_memory(15, coarse_levels=1).frames_in == "memory"


def test_the_first_volume_is_made_of_as_many_angles_at_a_time_as_frames_may_take():
    """Phases and holograms of 12 angles, or of some beside a hologram of one and the frame that it is made of."""
    geometry = hologram_geometry(128, 12)
    for frames, place, at_once in ((24, "memory", None), (23.9, "disk", 21), (9, "disk", 7), (2, "disk", 1)):
        settings = {"frames_memory_gib": frames * FRAME / 2**30, "batch_views": 2, "ranks": 1, "slices": 2}
        plan = make_plan(Recipe(**settings), blank(geometry), Machine(8, 8, 10**11, accelerator=False))
        assert (plan.frames_in, plan.angles_at_once) == (place, at_once)


def test_a_batch_that_does_not_fit_into_the_memory_of_frames_is_refused():
    with pytest.raises(PlanError, match=r"2 frames of 0.0625 MiB, and frames_memory_gib .* fewer batch_views"):
        in_frames_memory(1.9)
    assert in_frames_memory(1.9, batch_views=1).frames_in == "disk"


def test_frames_that_are_to_be_in_memory_must_fit_there():
    with pytest.raises(PlanError, match=r"0.75 MiB per rank, and frames_memory_gib .* leave frames_in out"):
        in_frames_memory(11, frames_in="memory")


def test_a_tile_of_a_frame_takes_a_part_of_its_memory():
    """Each of two ranks keeps half of every frame."""
    for frames, place in ((6, "memory"), (5.9, "disk")):
        settings = {"frames_memory_gib": frames * FRAME / 2**30, "mesh": "1x2", "depth_um": 0.002}
        geometry = hologram_geometry(128, 12, distance_m=5e-9)
        plan = make_plan(Recipe(start="empty", **settings), blank(geometry), Machine(8, 8, 10**11, accelerator=False))
        assert plan.frame_tiles
        assert plan.frames_in == place


def several_views(n, views=8):
    geometry = hologram_geometry(n=n, angles=views)
    return replace(geometry, angle_rad=np.zeros(views))


def test_memory_counts_what_a_choice_keeps():
    geometry = hologram_geometry(n=256, angles=60)
    usual = plan_of(geometry)
    volume = 4 * 256**3
    more = {
        # Three and one of them are what a checkpoint is written from.
        "without absorption": ({"absorption": False}, -7 * volume),
        "Adam": ({"optimiser": "adam"}, 2 * volume),
        "polish": ({"polish": 1}, 14 * volume),
        "halves": ({"shell_correlation": True}, 3 * volume),
    }
    for recipe, bytes_more in more.values():
        assert plan_of(geometry, **recipe).memory_bytes - usual.memory_bytes == pytest.approx(bytes_more, abs=1)
    held, streamed = (plan_of(geometry, frames_in=place).memory_bytes for place in ("memory", "disk"))
    assert held - streamed == (60 - 2 * usual.fit.batch_views) * 4 * 256**2


def test_a_field_that_does_not_fit_as_a_whole_is_cut_into_tiles(machine):
    recipe = {"depth_um": 0.2, "slices": 40, "batch_views": 8, "edges": "outgoing"}
    machine(10**12)
    whole = plan_of(several_views(2048), **recipe)
    assert (whole.propagation, whole.gradient, whole.tiles) == ("multislice", "stored", (1, 1))
    machine(int(0.7 * whole.memory_bytes))
    tiled = plan_of(several_views(2048), **recipe)
    assert (tiled.propagation, tiled.gradient) == ("tiled-multislice", "recomputed")
    assert min(tiled.tiles) > 1
    assert tiled.options["halo"] == tiled.halo > 0
    assert tiled.memory_bytes < 0.7 * whole.memory_bytes
    assert f"it is divided into {tiled.tiles[0]} by {tiled.tiles[1]} tiles" in tiled.notes[-1]


def on_site(views=64, ranks_per_node=4, memory_bytes=10**11, accelerator=False, **recipe):
    site = Machine(2 * ranks_per_node, ranks_per_node, memory_bytes, accelerator)
    return make_plan(Recipe(**recipe), blank(hologram_geometry(n=16, angles=views)), site)


@pytest.mark.parametrize(("views", "ranks"), [(12, 3), (24, 4), (64, 8)])
def test_a_plan_for_other_nodes_fills_their_places_evenly(views, ranks):
    assert on_site(views=views).ranks == ranks


@pytest.mark.parametrize("device", ["gpu", "cuda", "xpu"])
def test_a_plan_for_other_nodes_takes_their_device_and_memory(device):
    assert on_site().device == "cpu"
    assert on_site(accelerator=True).device == "gpu"
    assert on_site(accelerator=True, device=device).device == device
    with pytest.raises(PlanError, match="none on the site's nodes"):
        on_site(device=device)
    with pytest.raises(PlanError, match="for 4 ranks on a device"):
        on_site(memory_bytes=2 * 10**9)
    assert on_site(memory_bytes=2 * 10**9, accelerator=True).ranks == 8


def test_processors_of_nodes_with_gpus_are_planned_with_their_cores_and_memory():
    """Eight ranks of a node at most, where nobody asks for more, and its memory for all of them."""
    gpus = Machine(8, 4, 80 * 10**9, True, host_memory_bytes=500 * 10**9, cores_per_node=32)
    assert gpus.for_device("cpu") == Machine(16, 32, 500 * 10**9, accelerator=False)
    assert gpus.for_device("auto") is gpus
    geometry = hologram_geometry(n=16, angles=64)
    assert make_plan(Recipe(device="cpu"), blank(geometry), gpus).ranks == 15
    small = replace(gpus, host_memory_bytes=2 * 10**9)
    with pytest.raises(PlanError, match=r"for 15 ranks on a device with 1\.9 GiB\."):
        make_plan(Recipe(device="cpu"), blank(geometry), small)
    with pytest.raises(PlanError, match="give memory_gb in the site's profile"):
        on_site(accelerator=True, device="cpu")


GIB = 2**30


def here(monkeypatch, *memory_bytes, kind="cuda", views=64, **recipe):
    """A plan for this machine with GPUs of these sizes."""
    emulate(monkeypatch, *memory_bytes, kind=kind)
    return make_plan(Recipe(**recipe), blank(hologram_geometry(n=16, angles=views)))


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_plan_for_this_machine_takes_the_gpus_that_are_there(monkeypatch, kind):
    for count in (1, 2, 3):
        plan = here(monkeypatch, *count * [80 * GIB], kind=kind)
        assert (plan.device, plan.ranks) == ("gpu", count)
    assert here(monkeypatch, 80 * GIB, kind=kind, device=kind).device == kind
    assert here(monkeypatch, 80 * GIB, kind=kind, device="cpu").device == "cpu"


@pytest.mark.parametrize(
    ("gpus", "recipe"), [(1, {"ranks": 2}), (1, {"mesh": "1x2"}), (2, {"ranks": 3}), (2, {"mesh": "2x2"})]
)
def test_more_ranks_than_gpus_are_refused(monkeypatch, gpus, recipe):
    with pytest.raises(PlanError, match=rf"its own GPU.* for {gpus} GPUs?\..*use {gpus} ranks or fewer.*device cpu"):
        here(monkeypatch, *gpus * [80 * GIB], **recipe)
    assert here(monkeypatch, *gpus * [80 * GIB], device="cpu", **recipe).ranks > gpus


def test_more_ranks_than_gpus_of_a_site_are_refused():
    with pytest.raises(PlanError, match="for 8 GPUs"):
        on_site(accelerator=True, ranks=9)


def test_the_smallest_gpu_limits_all_ranks(monkeypatch):
    here(monkeypatch, 80 * GIB, 80 * GIB)
    with pytest.raises(PlanError, match=r"on a device with 1\.0 GiB"):
        here(monkeypatch, 80 * GIB, 1 * GIB)


def test_a_build_for_gpus_without_one_says_that_processors_compute(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    plan = here(monkeypatch)
    assert plan.device == "cpu"
    assert any("no GPU is used" in note and "CUDA_VISIBLE_DEVICES=''" in note for note in plan.notes)
    assert not any("GPU" in note for note in here(monkeypatch, device="cpu").notes)
    with pytest.raises(PlanError, match="sees no device"):
        here(monkeypatch, device="gpu")


def test_a_gpu_keeps_a_twentieth_of_its_memory_free():
    geometry = hologram_geometry(n=64, angles=8)
    of = {"scan": blank(geometry), "recipe": Recipe(ranks=1)}
    least = replace(make_plan(site=Machine(1, 1, 80 * GIB, True), **of), gradient="recomputed")
    needed = memory_parts(least, geometry, accelerator=True).total
    assert make_plan(site=Machine(1, 1, math.ceil(needed / 0.95) + 1, True), **of).memory_bytes == needed
    with pytest.raises(PlanError, match="of which 5% stay free"):
        make_plan(site=Machine(1, 1, int(needed / 0.96), True), **of)


def gpu_parts(mesh="1x1", **recipe):
    """Parts of the memory of a GPU, and of its node, for holograms of 256² at 60 angles."""
    geometry, ranks = hologram_geometry(n=256, angles=60), math.prod(int(n) for n in mesh.split("x"))
    plan = make_plan(Recipe(mesh=mesh, **recipe), blank(geometry), Machine(ranks, ranks, 80 * GIB, True))
    return plan, memory_parts(plan, geometry, accelerator=True), host_memory_parts(plan, geometry)


@pytest.mark.parametrize("recipe", [{"kernels": "general"}, {"batch_views": 32}, {"propagation": "tiled-multislice"}])
def test_graphs_take_memory_where_slices_are_captured(recipe):
    assert gpu_parts(**({"batch_views": 6} | recipe))[1].graphs == 0


def test_a_gpu_holds_what_the_driver_and_the_libraries_take():
    plan, parts, host = gpu_parts(batch_views=6)
    wave = 8 * (256 + 2 * plan.margin) ** 2 * 6
    assert parts.transforms == wave
    assert parts.context == 600 * 2**20
    assert parts.graphs == 4 * wave * (plan.slices + 6)
    of_fits = parts.volumes + parts.frames + parts.batch + parts.rotations
    tensors = of_fits + parts.propagators + parts.transforms + parts.graphs
    assert parts.allocator == pytest.approx(tensors / 10)
    assert parts.total == int(1.1 * tensors + parts.context)
    # All, and none in the node's memory; or the batch that is computed and the next, from pinned memory.
    assert (parts.frames, host.frames) == (60 * 4 * 256**2, 0)
    _, parts_from_disk, host_from_disk = gpu_parts(batch_views=6, frames_in="disk")
    assert parts_from_disk.frames == host_from_disk.frames == 2 * 6 * 4 * 256**2
    assert host.program == 2 * GIB
    # δ and β, their best copies, and the weight of the voxels.
    assert host.checkpoint == 7 * 4 * 256**3
    assert host.context == parts.checkpoint == parts.program == 0


@pytest.mark.parametrize(("mesh", "groups"), [("1x1", 0), ("4x1", 1), ("1x4", 2), ("2x2", 3)])
def test_every_group_of_ranks_has_buffers_on_a_gpu(mesh, groups):
    assert gpu_parts(mesh)[1].exchange == groups * 700 * 2**20


def test_ranks_on_gpus_must_fit_into_their_node():
    geometry = hologram_geometry(n=256, angles=60)
    needed = 4 * gpu_parts("4x1")[2].total
    for room, served in ((needed / 0.94, True), (needed / 0.96, False)):
        machine = Machine(8, 4, 80 * GIB, True, host_memory_bytes=int(room))
        recipe = Recipe(ranks=4, mesh="4x1")
        if served:
            assert make_plan(recipe, blank(geometry), machine).ranks == 4
        else:
            with pytest.raises(PlanError, match=r"for 4 ranks on a node with.*more slabs"):
                make_plan(recipe, blank(geometry), machine)


def test_a_gpu_that_is_too_small_is_told_what_would_fit():
    """Each of the suggestions is taken at its word: the plan that it gives fits into the same GPU."""
    geometry = hologram_geometry(n=768, angles=60)

    def plan_for(size, places=2, mesh="2x1"):
        return make_plan(Recipe(mesh=mesh, batch_views=16), blank(geometry), Machine(places, places, size, True))

    whole = replace(plan_for(80 * GIB), gradient="recomputed")
    room = int(0.8 * memory_parts(whole, geometry, accelerator=True).total)
    with pytest.raises(PlanError) as caught:
        plan_for(room)
    remedy = caught.value.remedy
    slabs = re.search(r"mesh 1x2 \((\d+\.\d) GiB per rank\)", remedy)
    ranks = re.search(r"(\d+) ranks as mesh (1x\d+) \((\d+\.\d) GiB per rank\)", remedy)
    assert slabs, remedy
    assert ranks, remedy
    for plan, said in (
        (plan_for(room, mesh="1x2"), slabs[1]),
        (plan_for(room, places=int(ranks[1]), mesh=ranks[2]), ranks[3]),
    ):
        assert plan.memory_bytes <= 0.95 * room
        assert plan.memory_bytes / GIB <= float(said) + 0.05


def test_fewer_views_in_a_batch_are_suggested_where_waves_take_the_memory():
    geometry = several_views(1024, 32)
    recipe = {"ranks": 1, "batch_views": 16, "depth_um": 0.05, "slices": 4, "start": "empty"}

    def plan_for(size, **other):
        return make_plan(Recipe(**(recipe | other)), blank(geometry), Machine(1, 1, size, True))

    again = replace(plan_for(80 * GIB), gradient="recomputed")
    room = int(0.8 * memory_parts(again, geometry, accelerator=True).total)
    with pytest.raises(PlanError) as caught:
        plan_for(room)
    views = re.search(r"batch_views (\d+) \(", caught.value.remedy)
    assert views, caught.value.remedy
    assert plan_for(room, batch_views=int(views[1])).memory_bytes <= 0.95 * room


def ran_out(error, device="cpu", **recipe):
    geometry = several_views(1024, 32)
    settings = {"ranks": 1, "batch_views": 16, "depth_um": 0.05, "slices": 32, "start": "empty"} | recipe
    plan = make_plan(Recipe(**settings), blank(geometry), Machine(1, 1, 80 * GIB, accelerator=False))
    return plan, out_of_memory(error, plan, geometry, torch.device(device))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore of it."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_memory_that_runs_out_is_said_with_what_would_fit(error):
    plan, told = ran_out(error)
    assert f"{plan.memory_bytes / GIB:.1f} GiB per rank" in told.got
    assert (str(error).splitlines() or ["MemoryError()"])[0] in told.got
    assert "\n" not in told.got
    assert "recomputed waves" in told.remedy
    assert "batch_views" in told.remedy


@pytest.mark.parametrize("error", [ValueError("out of memory"), RuntimeError("Connection closed by peer")])
def test_other_errors_stay_what_they_are(error):
    assert ran_out(error)[1] is None
