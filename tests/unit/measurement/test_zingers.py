"""Zingers are replaced in holograms; noise, fringes and masked pixels are not touched."""

import numpy as np
import pytest
from small_scan import hologram_geometry

from bluesky_multislice.measurement import Frames, FrameSteps, Scan, process_frames
from bluesky_multislice.measurement.zingers import ZingerFilter, photon_gain

SIDE = 128


def hologram(counts, gain=1.0, offset=0.0, contrast=0.3, seed=0):
    """Rings around an absorbing object with counting noise."""
    y, x = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    r = np.hypot(y, x)
    mean = 1 + contrast * np.cos(r**2 / 60) * np.exp(-((r / 40) ** 2))
    mean = np.where(r < 15, 0.02 * mean, mean)
    return (np.random.default_rng(seed).poisson(counts * mean) * gain + offset).astype(np.float32)


def found(frame, good=None):
    good = np.ones(frame.shape, bool) if good is None else good
    gain = photon_gain(frame, good)
    return (np.zeros(frame.shape, bool), frame) if gain is None else ZingerFilter(gain).find(frame, good)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("gain", [0.01, 1.0, 5.0])
@pytest.mark.parametrize("counts", [0.1, 1, 3, 10, 100, 10_000])
def test_clean_frames_keep_every_pixel(counts, gain, offset):
    assert sum(found(hologram(counts, gain, offset, seed=seed))[0].sum() for seed in range(5)) == 0


def test_bright_fringes_of_one_pixel_stay():
    frame = hologram(500)
    frame[40] = frame[:, 90] = 25_000
    np.fill_diagonal(frame, 25_000)
    assert not found(frame)[0].any()


def test_zingers_of_one_and_two_pixels_are_replaced_by_their_surroundings():
    frame = hologram(200)
    hit = frame.copy()
    places = [(5, 7), (60, 100), (100, 20), (100, 21), (127, 64), (0, 0)]
    for place in places:
        hit[place] += 20_000
    mask, cleaned = found(hit)
    assert sorted(map(tuple, np.argwhere(mask))) == sorted(places)
    assert np.array_equal(cleaned[~mask], frame[~mask])
    assert np.abs(cleaned[60, 100] - 200) < 50


def test_masked_pixels_are_no_zingers():
    frame, good = hologram(200), np.ones((SIDE, SIDE), bool)
    frame[50, 50], good[50, 50] = 1e6, False
    assert not found(frame, good)[0].any()


def scan_of(frames, **options):
    frames = Frames(frames, **options)
    return Scan(hologram_geometry(SIDE, angles=frames.views), frames)


def hit_frames(views=4):
    frames = np.stack([hologram(200, seed=seed) for seed in range(views)]).astype(np.uint16)
    clean = frames.copy()
    for view in range(views):
        frames[view, 10 + view, 30] = 60_000
    return frames, clean


def test_holograms_with_zingers_lose_them_by_default_and_the_scan_says_so():
    frames, clean = hit_frames()
    scan = process_frames(scan_of(frames), FrameSteps())
    read = scan.frames.read(np.arange(4))
    changed = read != clean
    assert changed.sum() <= 4
    assert np.abs(read - clean).max() < 100
    assert "4 in the 4 frames that were looked at" in scan.warnings[0]
    assert process_frames(scan_of(clean), FrameSteps()).frames.source is not None
    assert process_frames(scan_of(frames), FrameSteps(zingers=False)).frames.read(np.arange(4)).max() == 60_000


def test_holograms_without_zingers_are_linked_as_they_are():
    scan = scan_of(hit_frames()[1])
    assert process_frames(scan, FrameSteps()) is scan


def test_flats_lose_zingers_and_darks_stay():
    frames, clean = hit_frames()
    dark = np.zeros((1, SIDE, SIDE), np.uint16)
    dark[0, 3, 3] = 50
    stored = np.concatenate([frames, dark])
    options = {"rows": np.arange(3), "flat_rows": (3,), "dark_rows": (4,)}
    scan = process_frames(scan_of(stored, **options), FrameSteps())
    assert scan.frames.source[4:5][0, 3, 3] == 50
    assert np.abs(scan.frames.source[3:4][0] - clean[3]).max() < 100


def test_zingers_come_out_before_binning():
    frames, clean = hit_frames()
    scan = process_frames(scan_of(frames), FrameSteps(binning=2))
    sums = clean.reshape(4, SIDE // 2, 2, SIDE // 2, 2).sum((2, 4))
    assert np.abs(scan.frames.read(np.arange(4)) - sums).max() < 100
