"""Makes a scan of looked-up values and a source of frames. File formats differ in the look-up and in the source."""

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.field_lookup import FieldLookup
from bluesky_multislice.measurement import (
    CombinedFrames,
    FrameRows,
    Frames,
    FrameSource,
    Scan,
    check_exposures,
    combined_frames,
    detector_position_m,
    group_detector_positions,
    image_keys,
    orientation_of_frames,
    per_row,
    rows_by_number,
    rows_of_stack,
    scan_geometry,
    single_number,
)


def paired_frames(lookup: FieldLookup, data: FrameSource, *, per_view: int = 1) -> FrameSource:
    """Return the frames with one frame per view, and tell the look-up the event of each frame.

    Args:
        lookup: look-up of the scan's values.
        data: stored frames (row, y, x).
        per_view: consecutive frames per view, as the shape of the stored array tells it.

    Raises:
        FramesError: the frames do not pair with the views, or views have several frames that are not combined.
    """
    announced, combination, stored = lookup.announced_frames(), lookup.combination, data.shape[0]
    views = announced or stored // per_view
    if per_view == 1 and (combination is None or not announced):
        numbers = lookup.find("frame_numbers") if stored < announced else None
        known = numbers is not None and np.size(numbers.value) == stored
        dropped = rows_by_number(np.ravel(numbers.value), announced) if numbers is not None and known else None
        lookup.pair(dropped or FrameRows(np.arange(stored), stored))
        return data
    saturation = single_number(lookup, "saturation")
    source = combined_frames(data, views, combination, origin=f"views in {lookup.scan_name}", saturation=saturation)
    rows = source.shape[0]
    lookup.pair(rows_of_stack(rows, views) if combination == "stack" else FrameRows(np.arange(rows), rows))
    return source


def scan_of_values(
    lookup: FieldLookup,
    data: FrameSource,
    mask: NDArray[np.bool_] | None,
    probe: NDArray[np.complex64] | None,
    *,
    saturation: float | None = None,
) -> Scan:
    """Return the scan.

    Args:
        lookup: look-up of the scan's values, paired with the frames.
        data: stored frames (row, y, x).
        mask: (y, x) True for good pixels; None: all are good.
        probe: (mode, y, x) initial guess of the probe; None: there is none.
        saturation: stored value of a saturated pixel, if the source does not tell it; None: that of the scan.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: the frames are no measured intensities.
    """
    key = image_keys(lookup, data.shape[0])
    technique = lookup.technique()
    geometry = scan_geometry(lookup, technique, key, data.shape)
    check_exposures(per_row(lookup.find("exposure"), key), key)
    if isinstance(data, CombinedFrames):
        saturation = data.saturation
    elif saturation is None:
        saturation = single_number(lookup, "saturation")
    frames = Frames(
        data,
        rows=np.flatnonzero(key == 0),
        dark_rows=np.flatnonzero(key == 2).tolist(),
        flat_rows=np.flatnonzero(key == 1).tolist(),
        mask=mask,
        orientation=orientation_of_frames(lookup),
        saturation=saturation,
        when=_frame_times(lookup, key),
        detector_position_m=group_detector_positions(detector_position_m(lookup, key), key, geometry),
    )
    return Scan(geometry, frames, probe, lookup.sources, tuple(lookup.warnings), absent=frozenset(lookup.absent))


def probe_modes(stored: NDArray, source: str) -> NDArray[np.complex64]:
    """Return a probe (mode, y, x) from an array (mode, y, x) or (y, x).

    Raises:
        ScanError: it has other axes.
    """
    if stored.ndim not in (2, 3):
        raise ScanError(
            "A probe must be (mode, y, x) or (y, x).",
            got=f"an array {stored.shape} at {source}.",
            remedy="correct it there, or omit it: the initial guess is then derived from the frames.",
        )
    return np.asarray(stored, np.complex64).reshape(-1, *stored.shape[-2:])


def _frame_times(lookup: FieldLookup, key: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Return the time of every stored frame; None if only their order is known."""
    found = lookup.find("frame_times")
    return found.value if found is not None and found.value.shape == key.shape else None
