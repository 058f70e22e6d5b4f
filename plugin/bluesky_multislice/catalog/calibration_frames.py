"""Darks and flats of a run outside its primary stream: in separate streams or in other runs.

Streams are named ``dark``, ``darks``, ``flat`` or ``flats``, or by the fields ``darks`` and ``flats`` of the instrument
file. Other runs are named by ``multislice: {dark_run, flat_run}`` in the start document, or at the place that the
instrument file gives for ``dark_run`` and ``flat_run``: one unique identifier or a list. In another run, a stream with
one of these names is used; otherwise its primary stream, whose ``image_key`` can select the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tiled.client.array import ArrayClient
from tiled.client.container import Container

from bluesky_multislice.catalog.frame_sources import find_frames
from bluesky_multislice.catalog.run_documents import EventStream, RunDocuments, find_run, require_success
from bluesky_multislice.catalog.run_fields import RunLookup
from bluesky_multislice.errors import CatalogError, ScanError
from bluesky_multislice.files import FrameFile
from bluesky_multislice.measurement import FrameSource, detector_positions_differ

KINDS = {"dark": 2, "flat": 1}
"""Kind → its NXtomo ``image_key``."""


@dataclass(frozen=True, eq=False)
class CalibrationFrames:
    """Darks or flats of one stream.

    Attributes:
        kind: ``dark`` or ``flat``.
        origin: run and stream, for the provenance.
        source: stored frames (row, y, x).
        files: the detector's HDF5 files; None if this machine cannot access them.
        selected: (row,) True for rows of this kind.
        when: (row,) times, s; None if the stream does not record them.
        detector_position_m: (row,) where along the beam the detector stood; NaN where that is not recorded.
        exposure_s: (row,) exposure times, s; NaN if not recorded.
    """

    kind: str
    origin: str
    source: FrameSource
    files: tuple[FrameFile, ...] | None
    selected: NDArray[np.bool_]
    when: NDArray[np.float64] | None
    detector_position_m: NDArray[np.float64]
    exposure_s: NDArray[np.float64]


def find_calibrations(client: Container, lookup: RunLookup, image: str) -> list[CalibrationFrames]:
    """Return the darks and flats outside a run's primary stream.

    Args:
        client: Tiled container with the other runs.
        lookup: lookup of the run.
        image: data key of its frames.

    Raises:
        CatalogError: a dark or flat run does not exist.
        ScanError: a dark or flat stream or run has no frames of the detector.
        FramesError: the frames cannot be read.
    """
    found = []
    for kind in KINDS:
        mapped = lookup.find(f"{kind}s")
        stream, _, key = str(mapped.value).partition(":") if mapped else (_find_stream(lookup.run, kind), "", "")
        if stream is not None:
            found.append(_in_stream(lookup, stream, key or image, kind, f"stream {stream}"))
        for other in _other_runs(client, lookup, kind):
            other_lookup = RunLookup(other, lookup.values, lookup.instrument)
            other_stream = _find_stream(other, kind) or "primary"
            origin = f"run {other.uid}, stream {other_stream}"
            found.append(_in_stream(other_lookup, other_stream, image, kind, origin))
    return found


def _find_stream(run: RunDocuments, kind: str) -> str | None:
    return next((name for name in (kind, f"{kind}s") if name in run.streams), None)


def _other_runs(client: Container, lookup: RunLookup, kind: str) -> Iterator[RunDocuments]:
    name = f"{kind}_run"
    wanted = (lookup.run.start.get("multislice") or {}).get(name)
    source = f"start:multislice.{name}"
    if wanted is None:
        found = lookup.find(name)
        wanted = None if found is None else found.value
        source = lookup.sources.pop(name, "")
    for uid in [wanted] if isinstance(wanted, str) else wanted or []:
        try:
            run = find_run(client, str(uid))
        except CatalogError as error:
            raise CatalogError(
                f"The {kind} run of a scan must be in the same catalogue.",
                got=f"{uid} from {source} of run {lookup.run.uid}: {error.got}",
                remedy=f"correct {name}, or record {kind}s in a stream of the scan's run.",
            ) from error
        require_success(run)
        yield run


def _in_stream(lookup: RunLookup, name: str, image: str, kind: str, origin: str) -> CalibrationFrames:
    stream = lookup.run.streams.get(name)
    node = None if stream is None else stream.array(image) or _only_image(stream)
    if stream is None or node is None:
        content = f"it has {', '.join(sorted(stream.parts))}" if stream else "there is no such stream"
        raise ScanError(
            f"A stream of {kind}s must contain the detector's images.",
            got=f"{origin} without {image}: {content}.",
            remedy=f"record {image} there, or correct {kind}s in the instrument file.",
        )
    rows = node.shape[0]
    several = lookup.combination
    source, files = find_frames(node, rows, "mean" if several in (None, "stack") else several)
    key, when = stream.read("image_key"), stream.read("time")
    selected = np.ones(rows, bool) if key is None else np.ravel(key)[:rows] == KINDS[kind]
    return CalibrationFrames(
        kind,
        f"{origin}: {int(selected.sum())} frames",
        source,
        files,
        selected,
        None if when is None or len(when) < rows else np.asarray(when, float)[:rows],
        detector_positions(lookup, name, rows),
        exposure_times(lookup, name, rows),
    )


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Metadata of every stored frame of a scan.

    Attributes:
        image_key: (row,) NXtomo: 0 frame, 1 flat, 2 dark, 3 neither.
        when: (row,) times, s; indices if times are not recorded.
        detector_position_m: (row,) where along the beam the detector stood; None where it is one place for all frames.
        exposure_s: (row,) exposure times, s; NaN if not recorded.
    """

    image_key: NDArray[np.int_]
    when: NDArray[np.float64]
    detector_position_m: NDArray[np.float64] | None
    exposure_s: NDArray[np.float64]


def stored_rows(lookup: RunLookup, key: NDArray[np.int_], others: list[CalibrationFrames]) -> StoredRows:
    """Return the metadata of the rows of the primary stream, followed by those of other darks and flats.

    If times are missing, the other darks and flats count as taken before the primary stream.

    Args:
        lookup: lookup of the run; the sources of darks and flats are added to it.
        key: (event,) ``image_key`` of the primary stream.
        others: darks and flats outside the primary stream.
    """
    events = len(key)
    for kind, number in KINDS.items():
        origins = [other.origin for other in others if other.kind == kind]
        if (key == number).any():
            origins.insert(0, f"{lookup.frames_stream}:image_key: {int((key == number).sum())} frames")
        if origins:
            lookup.sources[f"{kind}s"] = "; ".join(origins)
    # Darks and flats have the times of their events: those of the detector may be of another clock.
    time_s = lookup.event_times_s()
    if time_s is not None and lookup.frame_rows is not None:
        time_s = lookup.frame_rows.per_row(time_s)
    times = [None if time_s is None or len(time_s) < events else time_s[:events]]
    times += [other.when for other in others]
    known = [part for part in times if part is not None]
    if len(known) < len(times):
        known = [np.arange(events, dtype=float), *(np.full(len(other.selected), -1.0) for other in others)]
    place = np.concatenate(
        [detector_positions(lookup, lookup.frames_stream, events), *(other.detector_position_m for other in others)]
    )
    return StoredRows(
        np.concatenate([key, *(np.where(other.selected, KINDS[other.kind], 3) for other in others)]),
        np.concatenate(known),
        place if detector_positions_differ(place[:events][key == 0]) else None,
        np.concatenate([exposure_times(lookup, lookup.frames_stream, events), *(other.exposure_s for other in others)]),
    )


def detector_positions(lookup: RunLookup, stream: str, rows: int) -> NDArray[np.float64]:
    """Return the detector position along the beam (row,) in a stream: its distance from the focus or from z = 0, m."""
    place = per_row(_in_stream_or_run(lookup, "distance", stream), rows)
    if lookup.find("focus_distance") is None:
        return place
    return place + per_row(_in_stream_or_run(lookup, "focus_distance", stream), rows)


def exposure_times(lookup: RunLookup, stream: str, rows: int) -> NDArray[np.float64]:
    """Return the exposure times (row,) in a stream, s. The start document's value is for the frames' stream only."""
    of_frames = stream == lookup.frames_stream
    found = _in_stream_or_run(lookup, "exposure", stream) if of_frames else lookup.in_stream("exposure", stream)
    return per_row(found, rows)


def _in_stream_or_run(lookup: RunLookup, name: str, stream: str) -> NDArray[np.float64] | None:
    """Return a field's values in the events of a stream, or else the single value of the run."""
    found = lookup.in_stream(name, stream)
    if found is not None:
        return found
    of_run = lookup.find(name)
    # One value per event would belong to the events of the frames.
    return np.ravel(of_run.value) if of_run is not None and np.size(of_run.value) == 1 else None


def per_row(values: NDArray[np.float64] | None, rows: int) -> NDArray[np.float64]:
    """Return one value per row (row,). NaN if the number of values is neither one nor the number of rows."""
    if values is None or len(values) not in (1, rows):
        return np.full(rows, np.nan)
    return np.broadcast_to(values, rows)


def _only_image(stream: EventStream) -> ArrayClient | None:
    images = [array for key in stream.parts if (array := stream.array(key)) is not None and array.ndim >= 3]
    return images[0] if len(images) == 1 else None
