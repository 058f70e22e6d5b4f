"""The frames of a run, paired with its events.

Each event has a frame, unless several frames per event are declared, the detector dropped frames, or the run ended
early and a person asks for the frames that exist.
"""

import numpy as np
from tiled.client.array import ArrayClient

from bluesky_multislice.catalog.frame_sources import count_frames, find_frames, frame_numbers, frames_per_event
from bluesky_multislice.catalog.run_documents import premature_ending
from bluesky_multislice.catalog.run_fields import RunLookup
from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files import FrameFile
from bluesky_multislice.measurement import (
    FrameRows,
    FrameSource,
    rows_by_number,
    rows_by_time,
    rows_of_stack,
    single_number,
)


def frames_of_run(lookup: RunLookup, name: str) -> tuple[FrameSource, tuple[FrameFile, ...] | None]:
    """Return the frames of a run, one per view, dark or flat of their stream, and the detector's files.

    The look-up is told which event each frame belongs to, and warns if frames are missing.

    Args:
        lookup: look-up of the run.
        name: data key of the frames.

    Raises:
        ScanError: the stream has no events or no such array.
        FramesError: frames do not pair with events, or cannot be read.
    """
    node, events = _frames_array(lookup, name), count_events(lookup)
    ending = premature_ending(lookup.run)
    if ending is not None and lookup.values.allow_aborted:
        rows = _rows_of_aborted(lookup, node, events, ending)
        found = _find(lookup, node, rows, stored=len(rows.event) * _combined(lookup, node, events))
    else:
        stacked = lookup.combination == "stack"
        declared = node.shape[0] * frames_per_event(node) if len(node.shape) in (3, 4) else 0
        rows = rows_of_stack(declared, events) if stacked else FrameRows(np.arange(events), events)
        try:
            found = _find(lookup, node, rows)
        except FramesError:
            dropped = None if lookup.combination else _dropped(lookup, node, events)
            if dropped is None:
                raise
            rows, found = dropped, _find(lookup, node, dropped, stored=len(dropped.event))
    lookup.pair(rows)
    return found


def _find(
    lookup: RunLookup, node: ArrayClient, rows: FrameRows, *, stored: int | None = None
) -> tuple[FrameSource, tuple[FrameFile, ...] | None]:
    saturation = single_number(lookup, "saturation")
    return find_frames(node, len(rows.event), lookup.combination, saturation, stored=stored)


def count_events(lookup: RunLookup) -> int:
    """Return the number of events in the stream with the frames.

    Raises:
        ScanError: there are none.
    """
    run, name = lookup.run, lookup.frames_stream
    stream = run.streams.get(name)
    counted = int((run.stop.get("num_events") or {}).get(name, 0))
    events = counted if stream is None else max(stream.events, counted)
    if stream is not None and events == 0:  # All data are external, and no stop document counts them.
        events = max((array.shape[0] for key in stream.images if (array := stream.array(key)) is not None), default=0)
    if stream is None or events == 0:
        raise ScanError(
            f"A scan needs events in its stream {name}.",
            got=f"run {run.uid} with the streams {sorted(run.streams) or 'none'} and {events} events.",
            remedy="take the scan with a plan that reads detector and motors into the primary stream, or give the "
            "place of frames in the instrument file.",
        )
    return events


def frames_key(lookup: RunLookup) -> str:
    """Return the data key of a run's frames.

    Raises:
        ScanError: it is not recorded, and the stream has no image or several.
    """
    stream = lookup.run.streams.get(lookup.frames_stream)
    found = lookup.find("frames")
    if found is None:
        images = [] if stream is None else stream.images
        if len(images) != 1:
            raise ScanError(
                "The data key of the frames must be known.",
                got=f"{len(images)} images in the stream {lookup.frames_stream} ({', '.join(images) or 'none'}); "
                f"searched {', '.join(lookup.places('frames'))}.",
                remedy="give it as detector_image in the start document, or as frames in the instrument file.",
            )
        lookup.sources["frames"] = f"{lookup.frames_stream}:{images[0]}, its only image"
        return images[0]
    return str(found.value)


def _frames_array(lookup: RunLookup, name: str) -> ArrayClient:
    stream = lookup.run.streams.get(lookup.frames_stream)
    node = None if stream is None else stream.array(name)
    if node is None:
        held = "" if stream is None else ", ".join(sorted(stream.parts))
        raise ScanError(
            f"The data key of the frames must be an array of the stream {lookup.frames_stream}.",
            got=f"{name!r} from {lookup.sources.get('frames', 'the call')}; the stream contains {held or 'nothing'}.",
            remedy="correct detector_image in the start document, or frames in the instrument file.",
        )
    return node


def _combined(lookup: RunLookup, node: ArrayClient, events: int) -> int:
    """Return the number of stored frames per view of a run that ended early."""
    return _per_event(node, events) if lookup.combination in ("mean", "sum") else 1


def _per_event(node: ArrayClient, events: int) -> int:
    """Return the number of frames per event of a run that ended early, in which the last event may be incomplete."""
    several = frames_per_event(node)
    return several if several > 1 else max(1, -(-node.shape[0] // events))


def _dropped(lookup: RunLookup, node: ArrayClient, events: int) -> FrameRows | None:
    """Return the pairing if there are fewer frames than events, and the detector recorded which; None otherwise."""
    try:
        frames, numbers = count_frames(node), frame_numbers(node)
    except FramesError:
        return None
    if not 0 < frames < events:
        return None
    recorded = lookup.find("frame_numbers")
    numbers = numbers if recorded is None else np.ravel(recorded.value)
    if numbers is not None and len(numbers) == frames:
        return rows_by_number(numbers, events)
    times, event_times_s = lookup.find("frame_times"), lookup.event_times_s()
    if times is None or event_times_s is None or np.size(times.value) != frames or len(event_times_s) != events:
        return None
    return rows_by_time(np.ravel(times.value), event_times_s)


def _rows_of_aborted(lookup: RunLookup, node: ArrayClient, events: int, ending: str) -> FrameRows:
    """Return the pairing of the frames and positions that exist, and warn how many these are.

    Raises:
        FramesError: there are none.
    """
    if lookup.combination is None and (frames_per_event(node) > 1 or count_frames(node) >= 2 * events):
        raise FramesError(
            "Several frames per event must be declared.",
            got=f"{count_frames(node)} frames for {events} events of run {lookup.run.uid}, which {ending}.",
            remedy="set frames_per_view to mean, sum or stack in the recipe or the instrument file.",
        )
    per_event = 1 if lookup.combination is None else _per_event(node, events)
    recorded = [events, count_frames(node) // per_event]
    for name in ("position_y", "position_x", "angle", "image_key"):
        place = None if lookup.instrument is None else lookup.instrument.fields.get(name)
        found = lookup.find(name)
        if found is not None and found.place == "rows" and np.size(found.value) > 1 and not (place and place.samples):
            recorded.append(np.size(found.value))
    whole = min(recorded)
    if whole == 0:
        raise FramesError(
            "A run that ended early needs at least one frame with its position.",
            got=f"run {lookup.run.uid}, which {ending}: {recorded[1]} frames for {events} events.",
            remedy="repeat the scan.",
        )
    planned = lookup.run.start.get("num_points") or max(recorded)
    lookup.warnings.append(f"the run {ending}: {whole} of {planned} events are used, those with frame and position")
    event = np.arange(whole)
    return FrameRows(np.repeat(event, per_event) if lookup.combination == "stack" else event, events, partial=True)
