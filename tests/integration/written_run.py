"""Runs written document by document through TiledWriter: the ones that no good beamline would write."""

import time

import event_model
import h5py
import numpy as np
from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter

START = {
    "technique": "ptychography",
    "energy_ev": 12400.0,
    "detector_distance_m": 2.0,
    "detector_pixel_size_m": 75e-6,
    "detector_regime": "far_field",
}
POSITIONS = {
    "rotation_angle": ("deg", [0.0, 0.0, 0.0]),
    "sample_x": ("um", [1.0, 2.0, 3.0]),
    "sample_y": ("um", [4.0, 5.0, 6.0]),
}
FRAMES = np.arange(3 * 4 * 5, dtype=np.uint16).reshape(3, 4, 5)


def write_frames(folder, frames=FRAMES, name="frames"):
    path = folder / f"{name}.h5"
    with h5py.File(path, "w") as file:
        file["data"] = frames
    return path


def write_run(
    client,
    path,
    *,
    start=(),
    columns=None,
    declared=3,
    exit_status="success",
    configuration=None,
    baseline=None,
    times=None,
    calibrations=None,
):
    """Write a run of three events; ``declared`` frames of ``path`` are registered. Returns its uid.

    ``calibrations`` are further streams with images: name → (path, columns, times).
    """
    writer = TiledWriter(client, batch_size=1)
    run = event_model.compose_run(
        metadata={key: value for key, value in (START | dict(start)).items() if value is not None}
    )
    writer("start", run.start_doc)
    if baseline:
        _write_events(writer, run, "baseline", baseline)
    columns = POSITIONS if columns is None else columns
    _write_images(writer, run, "primary", path, columns, declared, configuration, times)
    for name, (where, held, when) in (calibrations or {}).items():
        rows = len(when)
        _write_images(writer, run, name, where, held, rows, None, when)
    if exit_status is not None:
        writer(
            "stop", run.compose_stop(exit_status=exit_status, reason="" if exit_status == "success" else "beam lost")
        )
    return run.start_doc["uid"]


def _write_images(writer, run, name, path, columns, declared, configuration, times):
    with h5py.File(path) as file:
        frames = file["data"]
        shape, dtype = frames.shape[1:], frames.dtype.str
    image = {"source": "t", "dtype": "array", "shape": [1, *shape], "dtype_numpy": dtype, "external": "STREAM:"}
    keys = _keys(columns) | {"image": image}
    descriptor = run.compose_descriptor(name=name, data_keys=keys, configuration=configuration or {})
    writer("descriptor", descriptor.descriptor_doc)
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=path.as_uri(),
        data_key="image",
        parameters={"dataset": "data", "chunk_shape": (1, *shape), "swmr": False},
    )
    writer("stream_resource", resource.stream_resource_doc)
    indices, seq_nums = {"start": 0, "stop": declared}, {"start": 1, "stop": declared + 1}
    writer("stream_datum", resource.compose_stream_datum(indices, seq_nums, descriptor.descriptor_doc))
    for row, when in enumerate([time.time()] * 3 if times is None else times):
        data = {key: values[row] for key, (_, values) in columns.items()} | {"tick": row}
        writer("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, when), time=when))


def _keys(columns):
    keys = {"tick": {"source": "t", "dtype": "integer", "shape": []}}
    for name, (units, _) in columns.items():
        keys[name] = {"source": "t", "dtype": "number", "shape": []} | ({"units": units} if units else {})
    return keys


def _write_events(writer, run, name, columns):
    descriptor = run.compose_descriptor(name=name, data_keys=_keys(columns))
    writer("descriptor", descriptor.descriptor_doc)
    for row in range(2):
        data = {key: values[row] for key, (_, values) in columns.items()} | {"tick": row}
        writer("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, time.time())))


def write_streams(client, streams, *, start=None, baseline=None, exit_status="success"):
    """Write a run whose streams hold external arrays, events, or both. Returns its uid.

    ``streams``: name → data key → (path, dataset, rows, shape of a row, unit), or (unit, values) for events.
    """
    writer = TiledWriter(client, batch_size=1)
    run = event_model.compose_run(metadata=start or {})
    writer("start", run.start_doc)
    if baseline:
        _write_events(writer, run, "baseline", baseline)
    for name, held in streams.items():
        _write_stream(writer, run, name, held)
    if exit_status is not None:
        writer("stop", run.compose_stop(exit_status=exit_status))
    return run.start_doc["uid"]


def _write_stream(writer, run, name, held):
    arrays = {key: value for key, value in held.items() if len(value) == 5}
    columns = {key: value for key, value in held.items() if len(value) == 2}
    keys = {}
    for key, (units, values) in columns.items():
        several = {"dtype": "array", "shape": list(np.shape(values[0]))} if np.ndim(values[0]) else {"dtype": "number"}
        keys[key] = {"source": "t", "shape": [], **several} | ({"units": units} if units else {})
    for key, (path, dataset, _, shape, units) in arrays.items():
        with h5py.File(path) as file:
            dtype = file[dataset].dtype.str
        keys[key] = {"source": "t", "dtype": "array", "shape": list(shape), "dtype_numpy": dtype, "external": "STREAM:"}
        keys[key] |= {"units": units} if units else {}
    descriptor = run.compose_descriptor(name=name, data_keys=keys)
    writer("descriptor", descriptor.descriptor_doc)
    for key, (path, dataset, rows, shape, _) in arrays.items():
        resource = run.compose_stream_resource(
            mimetype="application/x-hdf5",
            uri=path.as_uri(),
            data_key=key,
            parameters={"dataset": dataset, "chunk_shape": (1, *shape), "swmr": False},
        )
        writer("stream_resource", resource.stream_resource_doc)
        indices, seq_nums = {"start": 0, "stop": rows}, {"start": 1, "stop": rows + 1}
        writer("stream_datum", resource.compose_stream_datum(indices, seq_nums, descriptor.descriptor_doc))
    for row in range(len(next(iter(columns.values()))[1]) if columns else 0):
        data = {key: values[row] for key, (_, values) in columns.items()}
        writer(
            "event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, 100.0 + row), time=100.0 + row)
        )
