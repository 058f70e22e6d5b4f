"""Converts a Bluesky run in Tiled into a scan: geometry and frames, each value with its source.

Metadata contract: docs/interchange.md lists the keys of the start document and of the events for each field. The start
document may also contain ``multislice``: ``{auto: bool, recipe: {…}, dark_run: UID, flat_run: UID}``.

``calibration_frames`` describes the places of darks and flats. The units of events come from the descriptor. Missing
values are looked up in the instrument file. The recipe overrides all other sources.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiled.client.container import Container

from bluesky_multislice.catalog.calibration_frames import (
    CalibrationFrames,
    StoredRows,
    find_calibrations,
    stored_rows,
)
from bluesky_multislice.catalog.frame_sources import DetectorFiles
from bluesky_multislice.catalog.run_documents import find_run, require_success
from bluesky_multislice.catalog.run_fields import RunLookup
from bluesky_multislice.catalog.run_frames import frames_key, frames_of_run
from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import FrameFile, recipe_mask
from bluesky_multislice.measurement import (
    CombinedFrames,
    Frames,
    FrameSource,
    JoinedFrames,
    Scan,
    ScanGeometry,
    check_exposures,
    good_pixels,
    group_detector_positions,
    image_keys,
    mask_bad_pixels,
    orientation_of_frames,
    process_frames,
    scan_geometry,
    single_number,
)
from bluesky_multislice.recipe import FrameProcessing, Instrument, ScanValues


@dataclass(frozen=True, eq=False)
class ResolvedScan:
    """A run, converted into a scan.

    Attributes:
        scan: geometry, frames and sources.
        files: the detector's HDF5 files, to link instead of copy; None if this machine cannot access them, or if
            frames are processed.
        run_uid: the run's full unique identifier.
        start: the run's start document.
    """

    scan: Scan
    files: tuple[FrameFile, ...] | None
    run_uid: str
    start: dict[str, Any]


def resolve_scan(
    client: Container,
    run_uid: str,
    *,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    frames: FrameProcessing | None = None,
) -> ResolvedScan:
    """Convert a finished run into a scan.

    Args:
        client: a Tiled container of runs, a catalogue of bluesky-tiled-plugins or databroker 2, or the run itself.
        run_uid: the run's unique identifier.
        values: the recipe's ``[scan]`` table, which overrides the run.
        instrument: instrument file, searched for values that the run lacks.
        frames: processing of the frames; None: they are read as stored.

    Raises:
        CatalogError: the run does not exist.
        ScanError: the run did not succeed and is not allowed to be incomplete, or a value is missing or contradicts
            another.
        FramesError: frames are missing, fewer than the events, or unreadable.
    """
    run = find_run(client, run_uid)
    values = values or ScanValues()
    if not values.allow_aborted:
        require_success(run)
    lookup = RunLookup(run, values, instrument)
    name = frames_key(lookup)
    source, files = frames_of_run(lookup, name)
    key = image_keys(lookup, source.shape[0])
    technique = lookup.technique()
    geometry = scan_geometry(lookup, technique, key, source.shape)
    others = find_calibrations(client, lookup, name)
    stored = _frames(lookup, source, others, stored_rows(lookup, key, others), geometry)
    probe = lookup.find("probe")
    modes = None if probe is None else np.asarray(probe.value, np.complex64).reshape(-1, *probe.value.shape[-2:])
    scan = Scan(geometry, stored, modes, lookup.sources, tuple(lookup.warnings), absent=frozenset(lookup.absent))
    read = mask_bad_pixels(scan)
    scan = read if frames is None else process_frames(read, frames.steps)
    linked = _files(files, source, others) if scan.frames is read.frames else None
    return ResolvedScan(scan, linked, run.uid, run.start)


def _frames(
    lookup: RunLookup,
    source: FrameSource,
    others: list[CalibrationFrames],
    rows: StoredRows,
    geometry: ScanGeometry,
) -> Frames:
    """Return the frames of the primary stream, corrected with all darks and flats."""
    saturation = source.saturation if isinstance(source, CombinedFrames) else single_number(lookup, "saturation")
    if saturation is None and np.issubdtype(source.dtype, np.integer):
        saturation = float(np.iinfo(np.dtype(source.dtype).name).max)
    mask, sources = mask_of_run(lookup), [source, *(other.source for other in others)]
    _check_sources(sources, mask, lookup)
    check_exposures(rows.exposure_s, rows.image_key)
    position_m = rows.detector_position_m
    frames = Frames(
        JoinedFrames(sources) if others else source,
        rows=np.flatnonzero(rows.image_key == 0),
        dark_rows=np.flatnonzero(rows.image_key == 2).tolist(),
        flat_rows=np.flatnonzero(rows.image_key == 1).tolist(),
        mask=mask,
        orientation=orientation_of_frames(lookup),
        saturation=saturation,
        when=rows.when,
        detector_position_m=None
        if position_m is None
        else group_detector_positions(position_m, rows.image_key, geometry),
    )
    if (frames.dark_rows or frames.flat_rows) and (dead := frames.dead_pixels()):
        lookup.warnings.append(f"{dead} pixels are ignored: zero in a flat, or not a number in a dark")
    return frames


def _check_sources(sources: list[FrameSource], mask: NDArray[np.bool_] | None, lookup: RunLookup) -> None:
    """Check that good pixels have stored frames, and that sums of frames are sums of as many darks and flats."""
    for source in sources:
        stored = source.stored if isinstance(source, CombinedFrames) else source
        if isinstance(stored, DetectorFiles):
            stored.check_mask(mask)
    if lookup.combination == "sum" and not all(isinstance(source, CombinedFrames) for source in sources):
        raise ScanError(
            "Darks and flats must be sums of as many frames as the frames of the scan.",
            got="frames_per_view = sum, and streams with one frame per event.",
            remedy="use frames_per_view = mean.",
        )


def _files(
    files: tuple[FrameFile, ...] | None, source: FrameSource, others: list[CalibrationFrames]
) -> tuple[FrameFile, ...] | None:
    """Return the files with all frames, to link them; None if they must be copied."""
    parts = [files, *(other.files for other in others)]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({source.dtype, *(other.source.dtype for other in others)}) > 1:
        return None
    return tuple(file for part in known for file in part)


def mask_of_run(lookup: RunLookup) -> NDArray[np.bool_] | None:
    """Return (y, x) True for the good pixels of the recipe's or the run's mask; None if there is none.

    Raises:
        FramesError: the mask cannot be read, is no mask, or excludes most pixels.
    """
    given = recipe_mask(lookup.values, lookup.sources)
    if given is not None:
        return given
    found = lookup.find("mask")
    if found is None:
        lookup.sources["mask"] = "absent: every pixel good"
        return None
    return good_pixels(found.value, origin=f"{lookup.scan_name}, {found.source}", sense=lookup.values.mask_sense)
