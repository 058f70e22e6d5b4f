"""What a scan contains and what it lacks, field by field, without stopping at the first error."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError, MultisliceError
from bluesky_multislice.files.field_candidates import StoredValue, suggest_places
from bluesky_multislice.files.field_lookup import FieldLookup
from bluesky_multislice.measurement import (
    Frames,
    FrameSource,
    FrameSteps,
    Orientation,
    Saturated,
    Scan,
    ScanField,
    find_bad_pixels,
    geometry_values,
    image_keys,
    orientation_of_frames,
    process_frames,
)
from bluesky_multislice.models import Technique, find_technique, technique_fields
from bluesky_multislice.recipe import FieldPlace, scan_fields

_MOST_FRAMES, _LEAST_FRAMES, _SAMPLE_BYTES = 64, 8, 1e9
"""Largest and smallest number of frames of a sample, and its largest size if it has more than the smallest number."""

T = TypeVar("T")

_AS_IS: Orientation = "as_is"

_OF_TECHNIQUE = ("regime", "position_y", "position_x")
"""Fields whose defaults depend on the technique."""


@dataclass(frozen=True, eq=False)
class FieldReport:
    """One field of a scan.

    Attributes:
        field: the field.
        value: numbers in the field's unit, a word, or an array; None if it was not found.
        source: where the value was found; empty if it was not found.
        error: why the field cannot be used; None if it can, or if the scan does not need it.
        missing: whether the error is that no value was found.
        place: the field's entry in an instrument file; None if such an entry cannot express it.
        suggestions: stored values that may be the field, if it was not found.
    """

    field: ScanField
    value: Any = None
    source: str = ""
    error: MultisliceError | None = None
    missing: bool = False
    place: FieldPlace | None = None
    suggestions: tuple[StoredValue, ...] = ()


@dataclass(frozen=True, eq=False)
class ScanInspection:
    """What a scan contains and what it lacks.

    Attributes:
        name: the file's path or the run's name.
        fields: the fields that were found, are needed, or could be given.
        frames: the frames, corrected and masked as far as that is known; None: none are readable.
        scan: the scan; None: it cannot be reconstructed.
        problems: errors that do not belong to a single field.
        warnings: warnings about values.
    """

    name: str
    fields: tuple[FieldReport, ...] = ()
    frames: Frames | None = None
    scan: Scan | None = None
    problems: tuple[MultisliceError, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def errors(self) -> tuple[MultisliceError, ...]:
        """All errors: those of fields, then the others."""
        return (*(report.error for report in self.fields if report.error is not None), *self.problems)

    def report(self, name: str) -> FieldReport | None:
        """Return the report of a field; None if there is none."""
        return next((report for report in self.fields if report.field.name == name), None)

    def with_scan(self, read: Callable[[], Scan]) -> "ScanInspection":
        """Return the inspection with the scan, or with the error of reading it. A scan with errors is not read."""
        if self.errors:
            return self
        try:
            scan = read()
        except MultisliceError as error:
            return replace(self, problems=(error,))
        return replace(self, scan=scan, frames=scan.frames, warnings=scan.warnings)

    def processed(self, steps: FrameSteps) -> "ScanInspection":
        """Return the inspection of the scan with processed frames, or with the error of processing them."""
        if self.scan is None:
            return self
        try:
            scan = process_frames(self.scan, steps)
        except MultisliceError as error:
            return replace(self, problems=(*self.problems, error), scan=None)
        return replace(self, scan=scan, frames=scan.frames, warnings=scan.warnings)


@dataclass(frozen=True, eq=False)
class FrameSample:
    """Evenly spaced frames of a scan.

    Attributes:
        mean: (y, x) mean of the corrected, oriented frames; zero in masked pixels.
        count: number of frames in the mean.
        error: the first error of a frame; None: all can be used.
    """

    mean: NDArray[np.float64]
    count: int
    error: MultisliceError | None


def inspection_of_scan(name: str, read: Callable[[], Scan]) -> ScanInspection:
    """Return the inspection of a scan file whose format has no inspection of its own: without values of fields.

    Args:
        name: the file's path.
        read: reads the scan.
    """
    found = ScanInspection(name).with_scan(read)
    if found.scan is None:
        return found
    known = scan_fields()
    sources = found.scan.sources.items()
    reports = tuple(FieldReport(known[field], source=source) for field, source in sources if field in known)
    return replace(found, fields=reports)


def inspect_lookup(
    lookup: FieldLookup, frames: Frames | None, errors: Mapping[str, MultisliceError], frames_place: FieldPlace | None
) -> tuple[FieldReport, ...]:
    """Return a report for each field of a scan.

    Args:
        lookup: a new look-up of the scan's values; it collects sources and warnings.
        frames: the frames; None: unknown.
        errors: known errors by field, such as those of frames and mask.
        frames_place: place of the frames; None: unknown.
    """
    technique, technique_error = _technique(lookup)
    stored = count_announced(lookup) if frames is None else frames.source.shape[0]
    key = np.zeros(max(stored, 1), np.intp)
    finders: dict[str, Callable[[], Any]] = {"technique": lambda: lookup.technique().name, "image_key": lambda: key}
    try:
        key = image_keys(lookup, len(key)) if stored else key
    except MultisliceError as error:
        errors = {"image_key": error} | dict(errors)
    finders |= geometry_values(lookup, technique, key)
    if technique_error is not None:  # The technique is a stand-in: no defaults follow from it.
        finders = {name: finder for name, finder in finders.items() if name not in _OF_TECHNIQUE}
    others = set(technique_fields()) - {field.name for field in technique.fields}
    reports = []
    for field in lookup.fields.values():
        if field.name in others:
            continue
        error = technique_error if field.name == "technique" else errors.get(field.name)
        report = _report(lookup, field, error, finders.get(field.name))
        if field.name == "frames" and frames is not None:
            source = lookup.sources.get("frames", "")
            report = replace(report, value=tuple(frames.source.shape), source=source, place=frames_place)
        reports.append(report)
    return tuple(_with_suggestions(lookup, reports, stored, frames))


def partial_frames(source: FrameSource, lookup: FieldLookup, mask: NDArray[np.bool_] | None) -> Frames:
    """Return frames as far as the scan's values are known, with bad pixels masked.

    Raises:
        FramesError: the frames are not measured intensities, or the mask has another shape.
    """
    key = _if_usable(lambda: image_keys(lookup, source.shape[0]), np.zeros(source.shape[0], np.intp))
    frames = Frames(
        source,
        rows=np.flatnonzero(key == 0),
        dark_rows=np.flatnonzero(key == 2).tolist(),
        flat_rows=np.flatnonzero(key == 1).tolist(),
        mask=mask,
        orientation=_if_usable(lambda: orientation_of_frames(lookup), _AS_IS),
    )
    # Whether the frames are patterns may be unknown. In the middle of a pattern, the direct beam is no hot pixel.
    return frames.without(find_bad_pixels(frames, far_field=True).bad)


def count_announced(lookup: FieldLookup) -> int:
    """Return the number of frames that other values announce; 0 if they announce none, or cannot be used."""
    return _if_usable(lookup.announced_frames, 0)


def _if_usable(find: Callable[[], T], default: T) -> T:
    """Return a value, or a default if it cannot be used; the report of its field contains the error."""
    try:
        return find()
    except MultisliceError:
        return default


def sample_frames(frames: Frames, saturated: Saturated) -> FrameSample | None:
    """Read evenly spaced frames; None if there are no views.

    Args:
        frames: the frames.
        saturated: treatment of saturated pixels in the reconstruction.
    """
    size = max(1, int(np.prod(frames.shape)) * frames.source.dtype.itemsize)
    count = min(_MOST_FRAMES, max(_LEAST_FRAMES, int(_SAMPLE_BYTES / size)), frames.views)
    total, seen = np.zeros(frames.shape), np.zeros(frames.shape)
    readable, first_error = 0, None
    for view in np.unique(np.linspace(0, frames.views - 1, count).round().astype(int)):
        try:
            try:
                frame = frames.read(np.array([view]), saturated=saturated)[0]
            except FramesError as error:
                first_error = first_error or error
                frame = frames.read(np.array([view]), saturated="mask")[0]
        except MultisliceError as error:
            first_error = first_error or error
            continue
        finite = np.isfinite(frame)
        total[finite] += frame[finite]
        seen += finite
        readable += 1
    return FrameSample(total / np.maximum(seen, 1), readable, first_error) if readable or first_error else None


def _technique(lookup: FieldLookup) -> tuple[Technique, MultisliceError | None]:
    """Return the technique; if it is missing, one whose scans need the fewest values, and the error."""
    warnings = len(lookup.warnings)
    try:
        return lookup.technique(), None
    except MultisliceError as error:
        return find_technique("holography"), error
    finally:
        del lookup.warnings[warnings:]


def _report(
    lookup: FieldLookup, field: ScanField, error: MultisliceError | None, finder: Callable[[], Any] | None
) -> FieldReport:
    value = None
    if error is None:
        try:
            value = _value(lookup, field, finder)
        except MultisliceError as problem:
            error = problem
    if error is not None:
        return FieldReport(field, error=error, missing=_is_missing(lookup, field.name))
    source, place = lookup.sources.get(field.name, ""), lookup.place_of(field.name)
    if place is None and source.startswith("implied"):
        place = FieldPlace(value=value)
    return FieldReport(field, value, source, place=place)


def _value(lookup: FieldLookup, field: ScanField, finder: Callable[[], Any] | None) -> Any:
    """Return a value as it was found or, if it was not, as the scan has it; None if it has none."""
    value: Any = None if finder is None else finder()
    found, source = lookup.find(field.name), lookup.sources.get(field.name, "")
    return found.value if found is not None and source.startswith(found.source) else value if source else None


def _is_missing(lookup: FieldLookup, name: str) -> bool:
    try:
        return next(lookup.candidates(name), None) is None
    except MultisliceError:
        return False


def _with_suggestions(
    lookup: FieldLookup, reports: list[FieldReport], views: int, frames: Frames | None
) -> Iterator[FieldReport]:
    """Yield the reports; those of fields that were not found get suggestions."""
    used = {report.place.path for report in reports if report.place is not None and report.source}
    stored = [one for one in lookup.stored_values() if one.path not in used]
    frame = None if frames is None else (frames.source.shape[1], frames.source.shape[2])
    for report in reports:
        unrecorded = report.error is None and (not report.source or report.field.name in lookup.absent)
        if unrecorded or report.missing:
            found = suggest_places(report.field, stored, views=views, frame=frame, needed=report.missing)
            report = replace(report, suggestions=found)
        yield report
