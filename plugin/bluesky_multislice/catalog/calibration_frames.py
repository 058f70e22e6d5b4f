"""Darks and flats of a run that lie outside of its primary stream: in streams of their own, or in other runs.

Streams are called ``dark``, ``darks``, ``flat`` or ``flats``, or as the instrument file's fields ``darks`` and
``flats`` say. Other runs are named by ``multislice: {dark_run, flat_run}`` in the start document, or where the
instrument file's fields of these names say: a unique identifier, or a list of them. In such a run, a stream of those
names is taken, else the primary stream, of which ``image_key`` may tell the rows.
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
        files: the detector's HDF5 files where this machine sees them.
        counts: (row,) True where a row is of this kind.
        when: (row,) time of each, seconds; None where the stream has no events of its own.
        detector_position_m: (row,) where along the beam the detector stood; NaN where that is not recorded.
        exposure_s: (row,) exposure time; NaN where that is not recorded.
    """

    kind: str
    origin: str
    source: FrameSource
    files: tuple[FrameFile, ...] | None
    counts: NDArray[np.bool_]
    when: NDArray[np.float64] | None
    detector_position_m: NDArray[np.float64]
    exposure_s: NDArray[np.float64]


def find_calibrations(client: Container, lookup: RunLookup, image: str) -> list[CalibrationFrames]:
    """Return the darks and flats that lie outside of a run's primary stream.

    Args:
        client: where other runs are.
        lookup: of the run.
        image: data key of its frames.

    Raises:
        CatalogError: a run that it names does not exist.
        ScanError: a stream or run that it names holds no such frames.
        FramesError: they cannot be read.
    """
    found = []
    for kind in KINDS:
        mapped = lookup.find(f"{kind}s")
        stream, _, key = str(mapped).partition(":") if mapped is not None else (_stream_named(lookup.run, kind), "", "")
        if stream is not None:
            found.append(_in_stream(lookup, stream, key or image, kind, f"stream {stream}"))
        for other in _other_runs(client, lookup, kind):
            its = RunLookup(other, lookup.values, lookup.instrument)
            named = _stream_named(other, kind)
            where = f"run {other.uid}, stream {named or 'primary'}"
            found.append(_in_stream(its, named or "primary", image, kind, where))
    return found


def _stream_named(run: RunDocuments, kind: str) -> str | None:
    return next((name for name in (kind, f"{kind}s") if name in run.streams), None)


def _other_runs(client: Container, lookup: RunLookup, kind: str) -> Iterator[RunDocuments]:
    name = f"{kind}_run"
    wanted = (lookup.run.start.get("multislice") or {}).get(name)
    source = f"start:multislice.{name}"
    if wanted is None:
        wanted = lookup.find(name)
        source = lookup.sources.pop(name, "")
    for uid in [wanted] if isinstance(wanted, str) else wanted or []:
        try:
            run = find_run(client, str(uid))
        except CatalogError as error:
            raise CatalogError(
                f"The {kind} run of a scan must be in its catalogue.",
                got=f"{uid} from {source} of run {lookup.run.uid}: {error.got}",
                remedy=f"correct {name}, or take {kind}s in a stream of the run itself.",
            ) from error
        require_success(run)
        yield run


def _in_stream(lookup: RunLookup, name: str, image: str, kind: str, origin: str) -> CalibrationFrames:
    stream = lookup.run.streams.get(name)
    node = None if stream is None else stream.array(image) or _only_image(stream)
    if stream is None or node is None:
        held = ", ".join(sorted(stream.parts)) if stream else "there is no such stream"
        raise ScanError(
            f"A stream of {kind}s must hold the detector's images.",
            got=f"{origin} without {image}: {held}.",
            remedy=f"record {image} there, or correct {kind}s in the instrument file.",
        )
    rows = node.shape[0]
    source, files = find_frames(node, rows)
    key, when = stream.read("image_key"), stream.read("time")
    counts = np.ones(rows, bool) if key is None else np.ravel(key)[:rows] == KINDS[kind]
    return CalibrationFrames(
        kind,
        f"{origin}: {int(counts.sum())} frames",
        source,
        files,
        counts,
        None if when is None or len(when) < rows else np.asarray(when, float)[:rows],
        place_of_rows(lookup, name, rows),
        exposure_of_rows(lookup, name, rows),
    )


@dataclass(frozen=True, eq=False)
class StoredRows:
    """What is known of every stored frame of a scan beside its pixels.

    Attributes:
        image_key: (row,) NXtomo: 0 frame, 1 flat, 2 dark, 3 neither.
        when: (row,) time, seconds, or order where times are not recorded.
        detector_position_m: (row,) where along the beam the detector stood; None where it is one place for all frames.
        exposure_s: (row,) exposure time; NaN where that is not recorded.
    """

    image_key: NDArray[np.int_]
    when: NDArray[np.float64]
    detector_position_m: NDArray[np.float64] | None
    exposure_s: NDArray[np.float64]


def stored_rows(lookup: RunLookup, key: NDArray[np.int_], others: list[CalibrationFrames]) -> StoredRows:
    """Return what is known of the rows of a primary stream and of other darks and flats behind them.

    Where an event has no time, all that are no event of the primary stream count as taken before it.

    Args:
        lookup: of the run; its sources then say where darks and flats came from.
        key: (event,) ``image_key`` of the primary stream.
        others: what follows.
    """
    events = len(key)
    for kind, number in KINDS.items():
        origins = [other.origin for other in others if other.kind == kind]
        if (key == number).any():
            origins.insert(0, f"primary:image_key: {int((key == number).sum())} frames")
        if origins:
            lookup.sources[f"{kind}s"] = "; ".join(origins)
    time = lookup.run.streams["primary"].read("time")
    times = [None if time is None or len(time) < events else np.asarray(time, float)[:events]]
    times += [other.when for other in others]
    known = [part for part in times if part is not None]
    if len(known) < len(times):
        known = [np.arange(events, dtype=float), *(np.full(len(other.counts), -1.0) for other in others)]
    place = np.concatenate([place_of_rows(lookup, "primary", events), *(other.detector_position_m for other in others)])
    return StoredRows(
        np.concatenate([key, *(np.where(other.counts, KINDS[other.kind], 3) for other in others)]),
        np.concatenate(known),
        place if detector_positions_differ(place[:events][key == 0]) else None,
        np.concatenate([exposure_of_rows(lookup, "primary", events), *(other.exposure_s for other in others)]),
    )


def place_of_rows(lookup: RunLookup, stream: str, rows: int) -> NDArray[np.float64]:
    """Return (row,) where along the beam the detector stood in a stream: its distance from the focus or from z = 0."""
    place = spread(_in_stream_or_run(lookup, "distance", stream), rows)
    if lookup.find("focus_distance") is None:
        return place
    return place + spread(_in_stream_or_run(lookup, "focus_distance", stream), rows)


def exposure_of_rows(lookup: RunLookup, stream: str, rows: int) -> NDArray[np.float64]:
    """Return (row,) exposure times in a stream; what the start document says is of the primary one."""
    found = (
        _in_stream_or_run(lookup, "exposure", stream) if stream == "primary" else lookup.in_stream("exposure", stream)
    )
    return spread(found, rows)


def _in_stream_or_run(lookup: RunLookup, name: str, stream: str) -> NDArray[np.float64] | None:
    """Return a field's values in a stream's events, else the one of the whole run."""
    found = lookup.in_stream(name, stream)
    if found is not None:
        return found
    of_run = lookup.find(name)
    # One value an event belongs to the frames' events.
    return np.ravel(of_run) if of_run is not None and np.size(of_run) == 1 else None


def spread(values: NDArray[np.float64] | None, rows: int) -> NDArray[np.float64]:
    """Return one value a row (row,), NaN where neither one value nor one a row is known."""
    if values is None or len(values) not in (1, rows):
        return np.full(rows, np.nan)
    return np.broadcast_to(values, rows)


def _only_image(stream: EventStream) -> ArrayClient | None:
    images = [array for key in stream.parts if (array := stream.array(key)) is not None and array.ndim >= 3]
    return images[0] if len(images) == 1 else None
