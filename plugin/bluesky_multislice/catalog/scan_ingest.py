"""Writes an interchange file into Tiled as an ordinary Bluesky run. Its frames are registered, not copied."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import event_model
import h5py
import httpx
import numpy as np
from bluesky_tiled_plugins.writing.tiled_writer import TiledWriter
from numpy.typing import NDArray
from tiled.client.container import Container

from bluesky_multislice.catalog.run_documents import plain_container
from bluesky_multislice.catalog.tiled_rows import fetch_once
from bluesky_multislice.errors import CatalogError, FramesError
from bluesky_multislice.files import StoredFrames, read_scan
from bluesky_multislice.measurement import Scan
from bluesky_multislice.recipe import Instrument, ScanValues
from bluesky_multislice.units import energy_ev_from_wavelength

_IMAGE = "camera"

_IN_POSITIONS = ("axis_pixels", "detector_rotation_deg")
"""Values of a recipe that change positions."""


def ingest(
    client: Container,
    path: Path,
    *,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    multislice: Mapping[str, Any] | None = None,
) -> str:
    """Write an interchange file into Tiled as a run that resolves to the same scan.

    Args:
        client: the Tiled container with the runs.
        path: the interchange file, in the server's readable storage.
        values: values that override the file's.
        instrument: instrument file, searched for values that the interchange file lacks.
        multislice: the request in the start document, ``{auto: bool, recipe: {…}}``; None: no request.

    Returns:
        The run's unique identifier.

    Raises:
        ScanError: a value is missing or contradicts another; nothing is written.
        CatalogError: the server cannot read the file; the run is then marked as failed.
    """
    scan = read_scan(path, values=values, instrument=instrument)
    source = scan.frames.source
    if not isinstance(source, StoredFrames):
        raise FramesError(
            "Only frames in an HDF5 dataset can be registered.",
            got=f"{type(source).__name__} for {path}.",
            remedy="give an interchange file with frames.",
        )
    if source.per_view > 1:
        raise FramesError(
            "A registered file must have one frame per view.",
            got=f"{source.per_view} frames per view in {path}.",
            remedy="store the frames as (view, y, x), or reconstruct the file with multislice reconstruct.",
        )
    dataset = source.dataset
    # A batch of all events, so that the writer writes the run's table at once.
    writer = TiledWriter(client, batch_size=dataset.shape[0])
    run = event_model.compose_run(metadata=_start(scan, path, multislice))
    writer("start", run.start_doc)
    _write_known_arrays(writer, run, scan)
    _write_events(writer, run, scan, dataset)
    try:
        fetch_once(plain_container(client)[run.start_doc["uid"], "primary", _IMAGE], 0, 1)
    except (httpx.HTTPError, KeyError) as error:
        writer("stop", run.compose_stop(exit_status="fail", reason="the server cannot read the frames"))
        raise CatalogError(
            "The Tiled server must be able to read the frames at their path.",
            got=f"{type(error).__name__} for {path.resolve()}.",
            remedy="move the file into the server's readable_storage, or add its folder to the server's configuration.",
        ) from error
    writer("stop", run.compose_stop())
    return run.start_doc["uid"]


def _start(scan: Scan, path: Path, multislice: Mapping[str, Any] | None) -> dict[str, Any]:
    geometry, frames = scan.geometry, scan.frames
    document: dict[str, Any] = {
        "plan_name": "ingest",
        "technique": geometry.technique,
        "energy_ev": energy_ev_from_wavelength(geometry.beam.wavelength_m),
        "detector_distance_m": float(geometry.distance_m[0]),
        "detector_pixel_size_m": [float(pitch) for pitch in geometry.detector.pixel_size_m],
        "detector_orientation": frames.orientation,
        "detector_image": _IMAGE,
        "interchange_file": str(path.resolve()),
        "sources": scan.sources,
        "warnings": list(scan.warnings),
    }
    # A default of the file format is not a measured value. If omitted, the resolver uses recipe or instrument file.
    if "regime" not in scan.absent:
        document["detector_regime"] = geometry.detector.regime
    document |= geometry.values
    beam = geometry.beam
    if isinstance(beam.focus_distance_m, int | float):
        document["focus_distance_m"] = beam.focus_distance_m
    blurs = {"source_size_m": beam.source_size_m, "divergence_rad": beam.divergence_rad}
    document |= {name: value for name, value in blurs.items() if value}
    if multislice is not None:
        document["multislice"] = _without_applied(multislice)
    if frames.saturation is not None:
        document["detector_saturation"] = frames.saturation
    return document


def _without_applied(multislice: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request without the values of the recipe that the run's positions contain."""
    recipe = dict(multislice.get("recipe") or {})
    if "scan" not in recipe:
        return dict(multislice)
    recipe["scan"] = {name: value for name, value in recipe["scan"].items() if name not in _IN_POSITIONS}
    return dict(multislice) | {"recipe": recipe}


def _write_known_arrays(writer: Callable[[str, Any], None], run: Any, scan: Scan) -> None:
    arrays: dict[str, NDArray] = {}
    if not scan.frames.stored_mask.all():
        arrays["detector_mask"] = np.where(scan.frames.stored_mask, 0, 1).astype(np.uint32)
    if scan.probe is not None:
        arrays["probe"] = scan.probe
    if not arrays:
        return
    keys = {
        name: {"source": "file", "dtype": "array", "shape": list(array.shape), "dtype_numpy": array.dtype.str}
        for name, array in arrays.items()
    }
    descriptor = run.compose_descriptor(name="static", data_keys=keys)
    writer("descriptor", descriptor.descriptor_doc)
    now = time.time()
    writer("event", descriptor.compose_event(data=arrays, timestamps=dict.fromkeys(arrays, now)))


def _write_events(writer: Callable[[str, Any], None], run: Any, scan: Scan, dataset: h5py.Dataset) -> None:
    rows, *shape = dataset.shape
    columns = _columns(scan, rows)
    keys: dict[str, Any] = {
        name: {"source": "file", "dtype": "number", "shape": [], "units": unit} for name, (unit, _) in columns.items()
    }
    keys[_IMAGE] = {
        "source": "file",
        "dtype": "array",
        "shape": shape,
        "dtype_numpy": dataset.dtype.str,
        "external": "STREAM:",
    }
    descriptor = run.compose_descriptor(name="primary", data_keys=keys)
    writer("descriptor", descriptor.descriptor_doc)
    resource = run.compose_stream_resource(
        mimetype="application/x-hdf5",
        uri=Path(dataset.file.filename).resolve().as_uri().replace("file://", "file://localhost"),
        data_key=_IMAGE,
        parameters={"dataset": dataset.name, "chunk_shape": dataset.chunks or dataset.shape, "swmr": False},
    )
    writer("stream_resource", resource.stream_resource_doc)
    # The writer registers frames when a second document completes its batch, so send one frame, then the others.
    for start, stop in ((0, 1), (1, rows)):
        if start < stop:
            indices = {"start": start, "stop": stop}
            seq_nums = {"start": start + 1, "stop": stop + 1}
            datum = resource.compose_stream_datum(indices, seq_nums, descriptor.descriptor_doc)
            writer("stream_datum", datum)
    now = time.time()
    times = np.full(rows, now)
    if "frame_times" in scan.sources:
        times += scan.frames.when - scan.frames.when.min()
    for row, when in enumerate(times.tolist()):
        data = {name: values[row].item() for name, (_, values) in columns.items()}
        writer("event", descriptor.compose_event(data=data, timestamps=dict.fromkeys(data, when), time=when))


def _distance_m(scan: Scan, distance_m: NDArray) -> NDArray:
    """Return the distance of every stored frame. A flat's distance gives its detector position."""
    if scan.frames.detector_position_m is None:
        return distance_m
    focus_distance_m = scan.geometry.focus_distance_m
    from_position = scan.frames.detector_position_m - (0.0 if focus_distance_m is None else focus_distance_m[-1])
    return np.where(np.isnan(distance_m), from_position, distance_m)


def _columns(scan: Scan, rows: int) -> dict[str, tuple[str, NDArray]]:
    """Return event data key → (unit, one value per stored frame); NaN for darks and flats without a value."""
    geometry, frames = scan.geometry, scan.frames

    def per_row(values: NDArray) -> NDArray:
        column = np.full(rows, np.nan)
        column[frames.rows] = values
        return column

    columns = {"rotation_angle": ("deg", per_row(np.degrees(geometry.angle_rad)))}
    if "position_x" not in scan.absent:
        columns["sample_y"] = ("m", per_row(-geometry.position_m[:, 0]))
        columns["sample_x"] = ("m", per_row(-geometry.position_m[:, 1]))
    if np.ptp(geometry.distance_m) > 0:
        columns["detector_distance"] = ("m", _distance_m(scan, per_row(geometry.distance_m)))
    focus_distance_m = geometry.beam.focus_distance_m
    if isinstance(focus_distance_m, tuple):
        columns["focus_distance"] = ("m", np.nan_to_num(per_row(np.array(focus_distance_m)), nan=focus_distance_m[-1]))
    if frames.views < rows:
        image_key = np.full(rows, 3)  # NXtomo: 3 is an invalid image
        for key, of in ((0, frames.rows), (1, frames.flat_rows), (2, frames.dark_rows)):
            image_key[np.asarray(of, np.intp)] = key
        columns["image_key"] = ("", image_key)
    return columns
