"""Frames and events of a run that are not one to one, and start documents as plans write them."""

import h5py
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from written_run import FRAMES, POSITIONS, START, write_frames, write_run, write_streams

from bluesky_multislice.catalog import inspect_run, resolve_scan
from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files import read_scan, write_scan
from bluesky_multislice.recipe import FieldPlace, Instrument, ScanValues

ABORTED = ScanValues(allow_aborted=True)
SIX = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(6, 4, 5)


def columns(events):
    """Events with positions 0, 1, 2, … µm at one angle."""
    x_um = np.arange(float(events)).tolist()
    return {"sample_x": ("um", x_um), "sample_y": ("um", x_um), "rotation_angle": ("deg", [0.0] * events)}


def x_um(scan):
    return -1e6 * scan.geometry.position_m[:, 1]


def instrument(frames_per_view=None, **places):
    fields = {field: FieldPlace(**place) for field, place in places.items()}
    return Instrument(name="B7", frames_per_view=frames_per_view, fields=fields)


@pytest.mark.parametrize("exit_status", ["abort", "fail", None])
@pytest.mark.parametrize(("declared", "stored"), [(2, 3), (3, 2), (2, 2)])
def test_the_good_part_of_an_aborted_run(tiled_client, folder, exit_status, declared, stored):
    """Frames that were not declared, or not stored any more, are left out with their positions."""
    path = write_frames(folder, FRAMES[:stored])
    uid = write_run(tiled_client, path, declared=declared, exit_status=exit_status, start={"num_points": 10})
    with pytest.raises(ScanError, match="allow_aborted"):
        resolve_scan(tiled_client, uid)
    resolved = resolve_scan(tiled_client, uid, values=ABORTED)
    assert_array_equal(resolved.scan.frames.read(np.arange(2)), FRAMES[:2])
    assert_allclose(x_um(resolved.scan), [1, 2])
    ending = "has no stop document yet" if exit_status is None else f"ended with {exit_status}: beam lost"
    assert f"the run {ending}: 2 of 10 events are used, those with frame and position" in resolved.scan.warnings
    write_scan(folder / "job.h5", resolved.scan, files=resolved.files)
    assert_array_equal(read_scan(folder / "job.h5").frames.read(np.arange(2)), FRAMES[:2])
    assert not inspect_run(tiled_client, uid, values=ABORTED).errors


def test_several_frames_per_event_of_an_aborted_run_must_be_declared(tiled_client, folder):
    uid = write_run(tiled_client, write_frames(folder, np.repeat(FRAMES, 2, axis=0)), declared=6, exit_status="abort")
    with pytest.raises(FramesError, match="Several frames per event must be declared"):
        resolve_scan(tiled_client, uid, values=ABORTED)


def test_an_aborted_run_of_external_data_only(tiled_client, folder):
    with h5py.File(folder / "data.h5", "w") as file:
        file["frames"], file["x"] = SIX, np.arange(5.0)
    held = dict.fromkeys(("sample_x", "sample_y"), (folder / "data.h5", "x", 5, (), "um"))
    streams = {"fly": {"image": (folder / "data.h5", "frames", 6, (1, 4, 5), None), **held}}
    start = START | {"rotation_angle_deg": 0}
    uid = write_streams(tiled_client, streams, start=start, exit_status=None)
    scan = resolve_scan(tiled_client, uid, values=ABORTED).scan
    assert_allclose(x_um(scan), np.arange(5))
    assert_array_equal(scan.frames.read(np.arange(5)), SIX[:5])


def test_an_aborted_run_without_frames(tiled_client, folder):
    path = write_frames(folder, FRAMES[:0])
    uid = write_run(tiled_client, path, exit_status="abort")
    with pytest.raises(FramesError, match=r"at least one frame.*0 frames for 3 events"):
        resolve_scan(tiled_client, uid, values=ABORTED)


def taken_twice(tiled_client, folder, shape=(2, 4, 5), **given):
    path = write_frames(folder, SIX)
    rows = 3 if shape[0] == 2 else 6
    streams = {"primary": columns(3) | {"image": (path, "data", rows, shape, None)}}
    return write_streams(tiled_client, streams, start=START, **given)


@pytest.mark.parametrize("shape", [(2, 4, 5), (1, 4, 5)])
@pytest.mark.parametrize("combination", ["mean", "sum", "stack"])
def test_several_frames_per_event(tiled_client, folder, combination, shape):
    """The catalogue stacks them (event, n, y, x) or appends them (event·n, 1, y, x)."""
    uid = taken_twice(tiled_client, folder, shape)
    with pytest.raises(FramesError, match=r"6 frames for 3 events.*mean, sum or stack"):
        resolve_scan(tiled_client, uid)
    scan = resolve_scan(tiled_client, uid, instrument=instrument(combination)).scan
    if combination == "stack":
        assert_array_equal(scan.frames.read(np.arange(6)), SIX)
        assert_allclose(x_um(scan), [0, 0, 1, 1, 2, 2])
    else:
        pairs = SIX.reshape(3, 2, 4, 5).astype(np.float32)
        assert_array_equal(scan.frames.read(np.arange(3)), getattr(pairs, combination)(axis=1))
        assert_allclose(x_um(scan), [0, 1, 2])


def test_several_frames_per_event_of_an_aborted_run(tiled_client, folder):
    uid = taken_twice(tiled_client, folder, exit_status="abort")
    with h5py.File(folder / "frames.h5", "a") as file:
        del file["data"]
        file["data"] = SIX[:5]
    for combination, views in (("mean", 2), ("stack", 4)):
        scan = resolve_scan(tiled_client, uid, values=ABORTED, instrument=instrument(combination)).scan
        assert scan.frames.views == views
        assert_allclose(x_um(scan), [0, 1] if combination == "mean" else [0, 0, 1, 1])


@pytest.mark.parametrize("points", [3, 20])
def test_an_event_per_line_with_the_positions_of_its_points(tiled_client, folder, points):
    """Short arrays of events are cells of the table, long ones arrays of their own."""
    frames = np.arange(2 * points * 4 * 5, dtype=np.uint16).reshape(-1, 4, 5)
    lines = np.arange(2.0 * points).reshape(2, points)
    streams = {
        "primary": {
            "image": (write_frames(folder, frames), "data", 2, (points, 4, 5), None),
            "sample_x": ("um", lines.tolist()),
            "sample_y": ("um", [1.0, 2.0]),
        }
    }
    uid = write_streams(tiled_client, streams, start=START | {"rotation_angle_deg": 0})
    scan = resolve_scan(tiled_client, uid, values=ScanValues(frames_per_view="stack")).scan
    assert_allclose(x_um(scan), lines.ravel())
    assert_allclose(-1e6 * scan.geometry.position_m[:, 0], np.repeat([1, 2], points))


@pytest.mark.parametrize("recorded", ["in the file", "by number", "by time"])
def test_frames_that_the_detector_dropped(tiled_client, folder, recorded):
    kept = np.array([0, 1, 3, 5])
    path = write_frames(folder, SIX[kept])
    with h5py.File(path, "a") as file:
        file["number"], file["time"] = kept + 1, 7.0 + kept
        if recorded == "in the file":
            file["/entry/instrument/NDAttributes/NDArrayUniqueId"] = kept + 1
    known = {"frame-number": (path, "number", 4, (), None), "frame-time": (path, "time", 4, (), "s")}
    streams = {
        "primary": columns(6) | {"image": (path, "data", 6 if recorded == "in the file" else 4, (1, 4, 5), None)},
        "detector": known,
    }
    uid = write_streams(tiled_client, streams, start=START)
    fields = {
        "in the file": {},
        "by number": {"frame_numbers": {"path": "detector:frame-number"}},
        "by time": {"frame_times": {"path": "detector:frame-time"}},
    }
    scan = resolve_scan(tiled_client, uid, instrument=instrument(**fields[recorded])).scan
    assert_array_equal(scan.frames.read(np.arange(4)), SIX[kept])
    assert_allclose(x_um(scan), kept)
    assert "2 of 6 events have no frame and are left out: 2, 4 (counted from 0)" in scan.warnings


def test_samples_are_interpolated_at_the_times_of_the_frames(tiled_client, folder):
    """An encoder at 10 samples per frame and a bit, which no mean can pair."""
    path = write_frames(folder, SIX)
    times_s = np.linspace(99.0, 106.0, 73)
    with h5py.File(folder / "panda.h5", "w") as file:
        file["x"], file["ts"] = 2 * (times_s - 100), times_s
    panda = {name: (folder / "panda.h5", name, 73, (), None) for name in ("x", "ts")}
    held = columns(6)
    del held["sample_x"]
    streams = {"primary": held | {"image": (path, "data", 6, (1, 4, 5), None)}, "panda": panda}
    uid = write_streams(tiled_client, streams, start=START)
    place = {"path": "panda:x", "unit": "um", "samples": "interpolate", "times": "panda:ts"}
    scan = resolve_scan(tiled_client, uid, instrument=instrument(position_x=place)).scan
    assert_allclose(x_um(scan), 2 * np.arange(6), atol=1e-9)
    assert "from 73 samples at panda:ts" in scan.sources["position_x"]
    with pytest.raises(ScanError, match=r"same number of samples.*73 samples of position x"):
        resolve_scan(tiled_client, uid, instrument=instrument(position_x={**place, "samples": "mean", "times": None}))
    late = {**place, "times": "panda:x"}
    with pytest.raises(ScanError, match=r"cover the frames.*frames from 100.000 to 105.000 s"):
        resolve_scan(tiled_client, uid, instrument=instrument(position_x=late))


def test_start_documents_with_numpy_types_nan_and_much_metadata(tiled_client, folder):
    start = {
        "energy_ev": np.float32(12400),
        "detector_pixel_size_m": np.array([75e-6, 75e-6]),
        "detector_distance_m": np.float64(2),
        "samples": np.int64(7),
        "aligned": np.bool_(True),
        "beam_current": float("nan"),
        "limits": [float("inf"), np.nan],
        "settings": {f"pv{number}": "x" * 100 for number in range(3500)},
    }
    scan = resolve_scan(tiled_client, write_run(tiled_client, write_frames(folder), start=start)).scan
    assert_array_equal(scan.frames.read(np.arange(3)), FRAMES)
    assert scan.geometry.distance_m[0] == 2
    nan = write_run(tiled_client, write_frames(folder, name="again"), start={"energy_ev": float("nan")})
    with pytest.raises(ScanError, match="A scan needs energy"):
        resolve_scan(tiled_client, nan)


def test_positions_of_the_events_of_the_default_keys_are_unchanged(tiled_client, folder):
    """A complete run of one frame per event has no warnings of pairing."""
    scan = resolve_scan(tiled_client, write_run(tiled_client, write_frames(folder)), values=ABORTED).scan
    assert_allclose(x_um(scan), POSITIONS["sample_x"][1])
    assert not [text for text in scan.warnings if "events" in text]
