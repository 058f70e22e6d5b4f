"""Batches cover everything once; every n-th view is held back."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_scan import hologram_geometry, hologram_scan, rebuild

from bluesky_multislice.errors import FramesError
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.parallel import join_mesh
from bluesky_multislice.planning import make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.reconstruction import reconstruct
from bluesky_multislice.solvers import Prefetcher, ViewSet, load_views, share_held_back, split_views
from bluesky_multislice.solvers.views.amplitudes import AmplitudeReader


def view_set(angles, heights=None):
    angles = np.asarray(angles, float)
    heights = np.zeros(len(angles)) if heights is None else heights
    return ViewSet(np.arange(len(angles)), angles, heights, torch.zeros(len(angles), 1, 1), torch.ones(1, 1))


@pytest.mark.parametrize("size", [1, 3, 4, 100])
@pytest.mark.parametrize("seed", [None, 0])
def test_batches_cover_every_view_once(size, seed):
    views = view_set(np.repeat([0.0, 1.0, 2.0], [7, 5, 2]))
    shuffle = None if seed is None else np.random.default_rng(seed)
    batches = views.batches(size, shuffle)
    assert max(len(batch) for batch in batches) <= size
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(14))


def test_a_batch_mixes_angles_only_where_every_angle_has_few_views():
    many = view_set(np.repeat([0.0, 1.0], 6))
    assert all(len(np.unique(many.angles[batch])) == 1 for batch in many.batches(4, np.random.default_rng(0)))
    # Where two angles with all their views do not fit into a batch, either.
    assert all(len(np.unique(many.angles[batch])) == 1 for batch in many.batches(11, np.random.default_rng(0)))
    assert [len(batch) for batch in many.batches(12, np.random.default_rng(0))] == [12]
    assert [len(batch) for batch in view_set([0.0, 1.0, 2.0, 3.0]).batches(4, None)] == [4]


def test_batches_that_are_not_shuffled_keep_an_angles_views_together():
    few = view_set(np.tile([0.0, 1.0, 2.0, 3.0], 2))
    assert [few.angles[batch].tolist() for batch in few.batches(4, None)] == [[0, 0, 1, 1], [2, 2, 3, 3]]


@pytest.mark.parametrize("views_per_angle", [1, 4])
def test_a_few_batches_in_a_row_look_from_all_sides_wherever_they_start(views_per_angle):
    views = view_set(np.repeat(np.arange(40.0), views_per_angle))
    order = views.angles[np.concatenate(views.batches(views_per_angle, np.random.default_rng(0)))]
    order = order[::views_per_angle]
    gaps = [np.diff(np.sort(order[start : start + 8])).max() for start in range(32)]
    assert max(gaps) <= 8  # of a thousand random orders the best has 12
    other = views.batches(views_per_angle, np.random.default_rng(1))
    assert views.angles[np.concatenate(other)].tolist() != np.repeat(order, views_per_angle).tolist()


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize("size", [5, 17, 60])
def test_every_batch_has_its_share_of_the_views_at_every_height(size, seed):
    heights = np.random.default_rng(1).permutation(120).astype(float)
    views = view_set(np.repeat([0.0, 1.0], 60), heights)
    shuffle = None if seed is None else np.random.default_rng(seed)
    batches = views.batches(size, shuffle)
    assert len(batches) == 2 * -(-60 // size)
    for border in (20, 60, 90):
        of_angle = {angle: np.sum(heights[views.angles == angle] < border) for angle in (0.0, 1.0)}
        for batch in batches:
            share = of_angle[views.angles[batch[0]]] / (len(batches) / 2)
            assert abs(np.sum(heights[batch] < border) - share) < 1 + 1e-9


def test_batches_without_shuffling_keep_their_views_in_order():
    batches = view_set(np.zeros(9), np.arange(9.0)[::-1]).batches(2, None)
    assert [batch.tolist() for batch in batches] == [[3, 8], [2, 7], [1, 6], [0, 5], [4]]


def test_shuffling_follows_the_seed():
    orders = [
        np.concatenate(view_set(np.zeros(30)).batches(4, np.random.default_rng(seed))).tolist() for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != list(range(30))


def test_no_views_have_no_batches():
    assert view_set([]).batches(4, np.random.default_rng(0)) == []


def test_every_nth_view_is_held_back():
    fitted, held = split_views(50, 20)
    np.testing.assert_array_equal(held, [0, 20, 40])
    np.testing.assert_array_equal(np.sort(np.concatenate([fitted, held])), np.arange(50))


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_groups_of_ranks_judge_by_whole_angles_and_each_view_once(groups):
    angle_rad = np.tile([0.0, 0.4, 0.8, 1.2, 1.6, 2.0], 5)
    held = np.arange(0, 30, 5) if groups == 1 else np.arange(30)
    shares = share_held_back(held, angle_rad, groups)
    assert len(shares) == groups
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), held)
    for share in shares:
        assert len(np.unique(angle_rad[share])) == 6 / groups
        np.testing.assert_array_equal(share, np.sort(share))


@pytest.mark.parametrize(("views", "every"), [(50, 0), (20, 20), (5, 20)])
def test_no_view_is_held_back_where_there_are_too_few_or_none_is_wanted(views, every):
    fitted, held = split_views(views, every)
    assert len(held) == 0
    np.testing.assert_array_equal(fitted, np.arange(views))


def test_views_are_loaded_as_amplitudes_of_the_scale():
    frames = np.arange(8 * 16, dtype=np.float32).reshape(8, 4, 4)
    mask = np.ones((4, 4), bool)
    mask[0, 1] = False
    scan = Scan(hologram_geometry(n=4), Frames(frames, mask=mask))
    views = load_views(scan, np.array([5, 2]), scale=4.0, device=torch.device("cpu"))
    np.testing.assert_allclose(views.amplitude, np.sqrt(frames[[5, 2]] * mask) / 2, rtol=1e-6)
    np.testing.assert_array_equal(views.mask, mask)
    np.testing.assert_array_equal(views.angles, scan.geometry.angle_rad[[5, 2]])


def test_views_with_a_bad_frame_are_refused():
    frames = np.ones((8, 4, 4))
    frames[3, 1, 1] = np.nan
    with pytest.raises(FramesError, match="view 3"):
        load_views(Scan(hologram_geometry(n=4), Frames(frames)), np.arange(8), scale=1.0, device=torch.device("cpu"))


class Counted:
    """Frames that remember which rows were read."""

    def __init__(self, stored):
        self.stored, self.shape, self.dtype, self.rows = stored, stored.shape, stored.dtype, []

    def __getitem__(self, rows):
        self.rows.append(rows.start)
        return self.stored[rows]


def streamed(stored, **settings):
    source = Counted(stored)
    scan = Scan(hologram_geometry(n=stored.shape[-1], angles=len(stored)), Frames(source, **settings))
    device = torch.device("cpu")
    held = load_views(scan, np.arange(len(stored)), scale=2.0, device=device, saturated="mask")
    source.rows.clear()
    return (
        source,
        held,
        load_views(scan, np.arange(len(stored)), scale=2.0, device=device, saturated="mask", ahead=Prefetcher()),
    )


def test_frames_on_disk_are_read_when_their_batch_comes_and_the_next_one_meanwhile():
    source, _, views = streamed(np.ones((6, 4, 4), np.float32))
    first, second, third = views.batches(2, None)
    assert source.rows == []
    views.amplitude[first]
    views.amplitude[first]
    views.amplitude[second]
    views.amplitude[third]
    # Each once, in their order, and at last the first of the next round.
    assert source.rows[:6] == list(range(6))
    assert set(source.rows[6:]) <= set(first)


@pytest.mark.parametrize(("factor", "far_field"), [(1, False), (2, False), (2, True)])
def test_frames_on_disk_are_those_in_memory(factor, far_field):
    stored = np.random.default_rng(1).uniform(1, 9, (5, 8, 8)).astype(np.float32)
    stored[2, :2, :3] = 99.0
    mask = np.random.default_rng(2).random((8, 8)) > 0.3
    _, held, views = streamed(stored, mask=mask, saturation=99.0)
    held, views = (part.coarser(factor, far_field=far_field) for part in (held, views))
    np.testing.assert_array_equal(views.mask, held.mask)
    for batch in views.batches(2, np.random.default_rng(0)):
        np.testing.assert_array_equal(views.amplitude[batch], held.amplitude[batch])


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("factor", [1, 2])
def test_only_rows_that_a_rank_computes_are_kept(place, factor):
    stored = np.random.default_rng(1).uniform(1, 9, (5, 8, 8)).astype(np.float32)
    mask = np.random.default_rng(2).random((8, 8)) > 0.3
    scan = Scan(hologram_geometry(n=8, angles=5), Frames(stored, mask=mask, orientation="transpose_flip_y"))
    options = {"scale": 2.0, "device": torch.device("cpu"), "ahead": Prefetcher() if place == "disk" else None}
    whole, part = (load_views(scan, np.arange(5), **options, rows=rows) for rows in (slice(None), slice(2, 6)))
    whole, part = (views.coarser(factor, far_field=False) for views in (whole, part))
    own = slice(2 // factor, 6 // factor)
    np.testing.assert_array_equal(part.mask, whole.mask[own])
    for batch in part.batches(2, None):
        np.testing.assert_array_equal(part.measured(batch), whole.measured(batch)[:, own])


class Watched(AmplitudeReader):
    """Notes how many frames are held at most, those that are being read included."""

    held, most = [], 0

    def read(self, index):
        alive = [held() for held in self.held]
        Watched.most = max(Watched.most, len(index) + sum(len(part) for part in alive if part is not None))
        del alive
        found = super().read(index)
        self.held.append(weakref.ref(found))
        return found


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_no_more_batches_are_held_than_are_read_ahead_and_computed(monkeypatch, batches):
    """Of frames to fit and held back together, to the end of a reconstruction with coarser fits."""
    monkeypatch.setattr("bluesky_multislice.solvers.views.views.AmplitudeReader", Watched)
    monkeypatch.setattr(Watched, "held", [])
    monkeypatch.setattr(Watched, "most", 0)
    scan = hologram_scan()
    settings = {"epochs": 3, "polish": 1, "batch_views": 1, "held_back_every": 3, "slices": 2, "coarse_levels": 1}
    plan = make_plan(Recipe(ranks=1, device="cpu", frames_in="disk", **settings), scan)
    with join_mesh("cpu") as mesh:
        reconstruct(scan, replace(plan, batches_ahead=batches), mesh)
    assert Watched.most == 1 + batches


def test_a_fit_is_the_same_wherever_the_frames_are():
    scan = hologram_scan()
    settings = {"epochs": 2, "polish": 1, "batch_views": 3, "held_back_every": 4, "slices": 4}
    held, read = (rebuild(scan, frames_in=place, **settings) for place in ("memory", "disk"))
    assert [epoch.loss for epoch in held.history] == [epoch.loss for epoch in read.history]
    np.testing.assert_array_equal(held.delta, read.delta)
