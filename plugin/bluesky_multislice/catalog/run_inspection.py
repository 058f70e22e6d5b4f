"""Inspects a Bluesky run: what was found where, and what is missing."""

from tiled.client.container import Container

from bluesky_multislice.catalog.run_documents import find_run, require_success
from bluesky_multislice.catalog.run_fields import RunLookup
from bluesky_multislice.catalog.run_frames import frames_key, frames_of_run
from bluesky_multislice.catalog.scan_resolver import mask_of_run, resolve_scan
from bluesky_multislice.errors import MultisliceError
from bluesky_multislice.files import ScanInspection, inspect_lookup, partial_frames
from bluesky_multislice.measurement import Frames
from bluesky_multislice.recipe import FieldPlace, FrameProcessing, Instrument, ScanValues


def inspect_run(
    client: Container,
    run_uid: str,
    *,
    values: ScanValues | None = None,
    instrument: Instrument | None = None,
    frames: FrameProcessing | None = None,
) -> ScanInspection:
    """Return what a run contains and what it lacks. Missing and unusable values are listed, not raised.

    Args:
        client: a Tiled container of runs, a catalogue of bluesky-tiled-plugins or databroker 2, or the run itself.
        run_uid: the run's unique identifier.
        values: the recipe's ``[scan]`` table, which overrides the run.
        instrument: instrument file, searched for values that the run lacks.
        frames: processing of the frames; None: they are read as stored.

    Raises:
        CatalogError: the run does not exist.
    """
    run, values = find_run(client, run_uid), values or ScanValues()
    errors: dict[str, MultisliceError] = {}
    problems: tuple[MultisliceError, ...] = ()
    try:
        if not values.allow_aborted:
            require_success(run)
    except MultisliceError as error:
        problems = (error,)
    lookup = RunLookup(run, values, instrument)
    paired = RunLookup(run, values, instrument)
    stored = _frames(paired, errors)
    if paired.frame_rows is not None:
        lookup.pair(paired.frame_rows)
    place = None
    if stored is not None:
        place = FieldPlace(path=f"{lookup.frames_stream}:{frames_key(lookup)}")
    reports = inspect_lookup(lookup, stored, errors, place)
    inspection = ScanInspection(
        f"run {run.uid}", reports, stored, problems=problems, warnings=tuple(dict.fromkeys(lookup.warnings))
    )
    inspection = inspection.with_scan(lambda: resolve_scan(client, run_uid, values=values, instrument=instrument).scan)
    return inspection if frames is None else inspection.processed(frames.steps)


def _frames(lookup: RunLookup, errors: dict[str, MultisliceError]) -> Frames | None:
    """Return the frames of a run as far as they can be used, and add the errors of frames and mask."""
    mask = None
    try:
        mask = mask_of_run(lookup)
    except MultisliceError as error:
        errors["mask"] = error
    try:
        source, _ = frames_of_run(lookup, frames_key(lookup))
        return partial_frames(source, lookup, mask)
    except MultisliceError as error:
        errors["frames"] = error
        return None
