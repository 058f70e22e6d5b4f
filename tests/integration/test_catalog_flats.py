"""Darks and flats in streams of their own and in other runs: where they are found, and what they do to each frame."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from written_run import FRAMES, POSITIONS, write_frames, write_run

from bluesky_multislice.catalog import resolve_scan
from bluesky_multislice.errors import CatalogError, FramesError
from bluesky_multislice.files import frame_files, read_scan, write_scan
from bluesky_multislice.recipe import FieldPlace, FrameProcessing, Instrument

VIEWS, TIMES = np.arange(3), [100.0, 110.0, 120.0]
BRIGHT = np.arange(20, dtype=np.uint16).reshape(4, 5) + 200


def level(folder, name, *values, shape=(4, 5)):
    frames = np.stack([np.full(shape, value, np.uint16) for value in values])
    return write_frames(folder, frames, name)


def checked(scan, expected, folder, files):
    """The scan, and what is staged of it, have these frames."""
    assert_allclose(scan.frames.read(VIEWS), expected, rtol=1e-6)
    write_scan(folder / "job.h5", scan, files=files)
    staged = read_scan(folder / "job.h5")
    assert_allclose(staged.frames.read(VIEWS), expected, rtol=1e-6)
    return staged


def test_darks_in_a_stream_and_flats_before_and_behind_in_other_runs(tiled_client, folder):
    bright = write_frames(folder, np.stack([BRIGHT] * 3), "bright")
    dark = level(folder, "dark", 3, 5, 4)
    ends = [
        write_run(tiled_client, bright, times=[90.0, 95.0, 85.0]),
        write_run(
            tiled_client,
            level(folder, "late", 104, 0, 104),
            times=[130.0] * 3,
            columns=POSITIONS | {"image_key": ("1", [1, 2, 1])},
        ),
    ]
    uid = write_run(
        tiled_client,
        write_frames(folder, FRAMES + 50),
        start={"multislice": {"flat_run": ends}},
        times=TIMES,
        calibrations={"darks": (dark, {}, [10.0, 11.0, 12.0])},
    )
    resolved = resolve_scan(tiled_client, uid)
    part = (np.array(TIMES)[:, None, None] - 90) / 40
    expected = (FRAMES + 46) / ((1 - part) * (BRIGHT - 4) + part * 100)
    checked(resolved.scan, expected, folder, resolved.files)
    assert resolved.scan.sources["darks"] == "stream darks: 3 frames"
    assert (
        resolved.scan.sources["flats"]
        == f"run {ends[0]}, stream primary: 3 frames; run {ends[1]}, stream primary: 2 frames"
    )
    names = {path.name for path in frame_files(folder / "job.h5")}
    assert names == {"frames.h5", "dark.h5", "bright.h5", "late.h5"}


def test_frames_darks_and_flats_are_processed_alike_and_staged_as_a_copy(tiled_client, folder):
    bright, dark = write_frames(folder, np.stack([BRIGHT] * 3), "bright"), level(folder, "dark", 4, 4, 4)
    uid = write_run(
        tiled_client,
        write_frames(folder, FRAMES + 50),
        calibrations={"darks": (dark, {}, TIMES), "flats": (bright, {}, TIMES)},
        times=TIMES,
    )
    resolved = resolve_scan(tiled_client, uid, frames=FrameProcessing(region="0:4,1:5", binning=2))
    bins = [np.asarray(one, float)[..., 1:].reshape(-1, 2, 2, 2, 2).sum((2, 4)) for one in (FRAMES + 46, BRIGHT - 4)]
    checked(resolved.scan, bins[0] / bins[1], folder, resolved.files)
    assert resolved.files is None
    assert frame_files(folder / "job.h5") == [folder / "job.h5"]


def test_flats_at_each_distance_serve_its_frames_and_the_instrument_file_names_the_stream(tiled_client, folder):
    distances = POSITIONS | {"detector_distance": ("m", [0.1, 0.2, 0.1])}
    flats = level(folder, "white", 10, 20, 10), {"detector_distance": ("m", [0.1, 0.2, 0.1])}, TIMES
    start = {"technique": "holography", "detector_regime": None}
    uid = write_run(tiled_client, write_frames(folder), start=start, columns=distances, calibrations={"open": flats})
    places = Instrument(name="B7", fields={"flats": FieldPlace(path="open:image")})
    resolved = resolve_scan(tiled_client, uid, instrument=places)
    level_of = np.array([10, 20, 10])[:, None, None]
    staged = checked(resolved.scan, FRAMES / level_of, folder, resolved.files)
    assert_allclose(staged.geometry.distance_m, [0.1, 0.2, 0.1])
    assert resolved.scan.sources["flats"] == "stream open: 3 frames"
    without = flats[0], {"detector_distance": ("m", [0.1, 0.1, 0.1])}, TIMES
    frames = write_frames(folder, name="again")
    uid = write_run(tiled_client, frames, start=start, columns=distances, calibrations={"flat": without})
    with pytest.raises(FramesError, match=r"every distance.*1 frames with the detector at 0.2 m"):
        resolve_scan(tiled_client, uid)


def test_darks_and_flats_of_another_pixel_type_are_copied(tiled_client, folder):
    mean = write_frames(folder, np.full((1, 4, 5), 2.5, np.float32), "mean")
    uid = write_run(tiled_client, write_frames(folder), calibrations={"flat": (mean, {}, [1.0])}, times=TIMES)
    resolved = resolve_scan(tiled_client, uid)
    assert resolved.files is None
    assert checked(resolved.scan, FRAMES / 2.5, folder, None).frames.saturation == 65535


@pytest.mark.parametrize(
    ("values", "shape", "columns", "words"),
    [
        ((5, 5, 5), (4, 4), {}, r"one shape.*\(4, 5\) and \(4, 4\)"),
        ((0, 0, 0), (4, 5), {}, "brighter than the dark"),
        ((5, 5, 5), (4, 5), {"exposure_time": ("s", [0.1, 0.1, 0.2])}, r"1 flats of 0.2 s for frames of 0.1 s"),
    ],
)
def test_flats_that_cannot_serve_are_refused(tiled_client, folder, values, shape, columns, words):
    flats = level(folder, "white", *values, shape=shape), columns, TIMES
    uid = write_run(tiled_client, write_frames(folder), start={"exposure_time_s": 0.1}, calibrations={"flat": flats})
    with pytest.raises(FramesError, match=words):
        resolve_scan(tiled_client, uid)


@pytest.mark.parametrize(
    ("start", "fields", "words"),
    [
        ({"multislice": {"flat_run": "gone"}}, {}, r"flat run.*gone from start:multislice.flat_run of run"),
        (
            {"taken": {"black": ["gone"]}},
            {"dark_run": FieldPlace(path="start:taken.black")},
            r"dark run.*gone from instrument file B7: start:taken.black of run",
        ),
    ],
)
def test_a_run_that_does_not_exist_is_named(tiled_client, folder, start, fields, words):
    uid = write_run(tiled_client, write_frames(folder), start=start)
    with pytest.raises(CatalogError, match=words) as caught:
        resolve_scan(tiled_client, uid, instrument=Instrument(name="B7", fields=fields))
    assert uid in caught.value.got
