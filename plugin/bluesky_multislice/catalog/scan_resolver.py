"""Converts a Bluesky run in Tiled into a scan: geometry and frames, each value with its source.

Metadata contract: the start document may contain

============================  ===============================================================================
``technique``                 ``ptychography``, ``holography``, ``microscopy`` or one from an installed package
``energy_ev``                 photon energy, eV
``detector_distance_m``       rotation axis to detector, m
``detector_pixel_size_m``     pitch of the frames after orientation, m: ``[y, x]`` or one number
``detector_regime``           ``far_field`` or ``near_field``; default ``near_field`` if a focus or the technique
                              implies it
``numerical_aperture``        and other ``fields`` of a single technique, by their names, SI units
``focus_distance_m``          focus to rotation axis, m; default: parallel beam
``source_size_m``             σ of the focal spot of a cone beam, m; default 0
``divergence_rad``            σ of the beam directions of a parallel beam, rad; default 0
``detector_orientation``      one of the eight values of ``frames.Orientation``; default ``as_is``
``detector_saturation``       smallest stored value of a saturated pixel; default: maximum of the integer type
``detector_image``            data key of the frames; default: the only image of the primary stream
``rotation_angle_deg``        angle of a run that does not rotate the sample, degrees
``angle_key``                 data key of the angle in the events; default ``rotation_angle``
``position_x_key``, ``_y_``   data keys of the **sample** translation (CXI's sign); default ``sample_x``, ``sample_y``
``distance_key``              data key of the distance of each view; default ``detector_distance``
``focus_distance_key``        data key of the focus distance of each view; default ``focus_distance``
``multislice``                ``{auto: bool, recipe: {…}}``
============================  ===============================================================================

Events may contain ``image_key`` (NXtomo: 0 frame, 1 flat, 2 dark); ``calibration_frames`` describes other places for
darks and flats. A stream ``static`` with one event may contain ``detector_mask`` (y, x; CXI bits, 0 is good) and
``probe`` (mode, y, x). The units of events come from the descriptor. Missing values are looked up in the instrument
file. The recipe overrides all other sources.
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from tiled.client.array import ArrayClient
from tiled.client.container import Container

from bluesky_multislice.catalog.calibration_frames import find_calibrations, stored_rows
from bluesky_multislice.catalog.frame_sources import DetectorFiles, JoinedFrames, find_frames
from bluesky_multislice.catalog.run_documents import RunDocuments, find_run, require_success
from bluesky_multislice.catalog.run_fields import RunLookup
from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import FrameFile, recipe_mask
from bluesky_multislice.measurement import (
    Beam,
    CombinedFrames,
    Detector,
    Frames,
    Orientation,
    Regime,
    Scan,
    ScanGeometry,
    check_energy,
    check_exposures,
    good_pixels,
    mask_bad_pixels,
)
from bluesky_multislice.models import Technique, find_technique, techniques
from bluesky_multislice.recipe import Instrument, ScanValues
from bluesky_multislice.units import wavelength_m_from_energy


@dataclass(frozen=True, eq=False)
class ResolvedScan:
    """A run, converted into a scan.

    Attributes:
        scan: geometry, frames and sources.
        files: the detector's HDF5 files, to link instead of copy; None if this machine cannot access them.
        run_uid: the run's full unique identifier.
        start: the run's start document.
    """

    scan: Scan
    files: tuple[FrameFile, ...] | None
    run_uid: str
    start: dict[str, Any]


def resolve_scan(
    client: Container, run_uid: str, *, values: ScanValues | None = None, instrument: Instrument | None = None
) -> ResolvedScan:
    """Convert a finished run into a scan.

    Args:
        client: a Tiled container of runs, a catalogue of bluesky-tiled-plugins or databroker 2, or the run itself.
        run_uid: the run's unique identifier.
        values: the recipe's ``[scan]`` table, which overrides the run.
        instrument: instrument file, searched for values that the run lacks.

    Raises:
        CatalogError: the run does not exist.
        ScanError: the run did not succeed, or a value is missing or contradicts another.
        FramesError: frames are missing, fewer than the events, or unreadable.
    """
    run = find_run(client, run_uid)
    require_success(run)
    lookup = RunLookup(run, values or ScanValues(), instrument)
    events = _events(run)
    key = _image_key(run, events)
    warnings = [str(text) for text in run.start.get("warnings", [])]
    frames, files = _frames(client, lookup, key, warnings)
    geometry = _geometry(lookup, frames, key, warnings)
    scan = mask_bad_pixels(Scan(geometry, frames, _probe(run, lookup), lookup.sources, tuple(warnings)))
    return ResolvedScan(scan, files, run.uid, run.start)


def _geometry(lookup: RunLookup, frames: Frames, key: NDArray[np.int_], warnings: list[str]) -> ScanGeometry:
    technique = find_technique(_choice(lookup, "technique", tuple(techniques())))
    focus = lookup.find("focus_distance")
    if focus is None:
        lookup.sources["focus_distance"] = "absent: parallel beam"
    regime = _regime(lookup, technique, focus is not None, warnings)
    blurs = {name: lookup.find(name) for name in ("source_size", "divergence")}
    beam = Beam(
        wavelength_m_from_energy(_energy_ev(lookup)),
        None if focus is None else _focus_distance_m(lookup, focus, key),
        *(0.0 if found is None else _single_number(lookup, name, found) for name, found in blurs.items()),
    )
    return ScanGeometry(
        technique=technique.name,
        beam=beam,
        detector=Detector(frames.shape, _pixel_size_m(lookup), regime, imaged=technique.imaged),
        distance_m=_per_view(lookup, "distance", lookup.require("distance"), key),
        angle_rad=_per_view(lookup, "angle", lookup.require("angle"), key),
        position_m=_position_m(lookup, technique, key),
        values={
            field.name: _single_number(lookup, field.name, lookup.require(field.name)) for field in technique.fields
        },
    )


def _frames(
    client: Container, lookup: RunLookup, key: NDArray[np.int_], warnings: list[str]
) -> tuple[Frames, tuple[FrameFile, ...] | None]:
    run, name = lookup.run, _frames_key(lookup)
    saturation = lookup.find("saturation")
    limit = None if saturation is None else float(saturation)
    source, files = find_frames(_frames_array(lookup, name), len(key), lookup.values.frames_per_view, limit)
    if isinstance(source, CombinedFrames):
        saturation = source.saturation
    if saturation is None and np.issubdtype(source.dtype, np.integer):
        saturation = np.iinfo(source.dtype).max
    others = find_calibrations(client, lookup, name)
    rows = stored_rows(lookup, key, others)
    mask, sources = _mask(run, lookup), [source, *(other.source for other in others)]
    for part in sources:
        stored = part.stored if isinstance(part, CombinedFrames) else part
        if isinstance(stored, DetectorFiles):
            stored.check_mask(mask)
    if lookup.values.frames_per_view == "sum" and not all(isinstance(part, CombinedFrames) for part in sources):
        raise ScanError(
            "Darks and flats must be sums of as many frames as the frames of the scan.",
            got="frames_per_view = sum, and streams with one frame per event.",
            remedy="use frames_per_view = mean.",
        )
    if others:
        source = JoinedFrames(sources)
        linked = [part for part in (files, *(other.files for other in others)) if part is not None]
        can_link = len(linked) == len(sources) and len({part.dtype for part in sources}) == 1
        files = tuple(file for part in linked for file in part) if can_link else None
    check_exposures(rows.exposure_s, rows.image_key)
    frames = Frames(
        source,
        rows=np.flatnonzero(rows.image_key == 0),
        dark_rows=np.flatnonzero(rows.image_key == 2).tolist(),
        flat_rows=np.flatnonzero(rows.image_key == 1).tolist(),
        mask=mask,
        orientation=_orientation(lookup),
        saturation=None if saturation is None else float(saturation),
        when=rows.when,
        detector_position_m=rows.detector_position_m,
    )
    if (frames.dark_rows or frames.flat_rows) and (dead := frames.dead_pixels()):
        warnings.append(f"{dead} pixels are ignored: zero in a flat, or not a number in a dark")
    return frames, files


def _events(run: RunDocuments) -> int:
    primary = run.streams.get("primary")
    counted = int((run.stop.get("num_events") or {}).get("primary", 0))
    events = counted if primary is None else max(primary.events, counted)
    if primary is None or events == 0:
        raise ScanError(
            "A scan needs events in its primary stream.",
            got=f"run {run.uid} with the streams {sorted(run.streams) or 'none'} and {events} events.",
            remedy="take the scan with a plan that reads detector and motors into the primary stream.",
        )
    return events


def _image_key(run: RunDocuments, events: int) -> NDArray[np.int_]:
    found = run.streams["primary"].read("image_key")
    key = np.zeros(events, int) if found is None else np.asarray(found, int).ravel()
    if len(key) != events or not (key == 0).any():
        raise ScanError(
            "Every event needs an image_key, and at least one must be 0 (a frame).",
            got=f"{len(key)} values for {events} events, {int((key == 0).sum())} of them zero.",
            remedy="record image_key with every event: 0 frame, 1 flat, 2 dark.",
        )
    return key


def _frames_key(lookup: RunLookup) -> str:
    primary = lookup.run.streams["primary"]
    name = lookup.find("frames")
    if name is None:
        images = [key for key in primary.parts if (array := primary.array(key)) is not None and array.ndim >= 3]
        if len(images) != 1:
            raise ScanError(
                "The data key of the frames must be known.",
                got=f"{len(images)} images in the primary stream ({', '.join(images) or 'none'}); searched "
                f"{', '.join(lookup.places('frames'))}.",
                remedy="give it as detector_image in the start document, or as frames in the instrument file.",
            )
        name, lookup.sources["frames"] = images[0], f"primary:{images[0]}, its only image"
    return str(name)


def _frames_array(lookup: RunLookup, name: str) -> ArrayClient:
    primary = lookup.run.streams["primary"]
    node = primary.array(name)
    if node is None:
        raise ScanError(
            "The data key of the frames must be an array of the primary stream.",
            got=f"{name!r} from {lookup.sources['frames']}; the stream contains {', '.join(sorted(primary.parts))}.",
            remedy="correct detector_image in the start document, or frames in the instrument file.",
        )
    return node


def _static(run: RunDocuments, lookup: RunLookup, key: str) -> NDArray | None:
    stream = run.streams.get("static")
    found = None if stream is None else stream.read(key)
    if found is not None:
        lookup.sources[key] = f"static:{key}"
    return found


def _mask(run: RunDocuments, lookup: RunLookup) -> NDArray[np.bool_] | None:
    given = recipe_mask(lookup.values)
    if given is not None:
        lookup.sources["detector_mask"] = f"recipe scan.mask: {lookup.values.mask}"
        return given
    found = _static(run, lookup, "detector_mask")
    if found is None:
        lookup.sources["detector_mask"] = "absent: every pixel good"
        return None
    return good_pixels(found, origin=f"run {run.uid}, static:detector_mask", sense=lookup.values.mask_sense)


def _probe(run: RunDocuments, lookup: RunLookup) -> NDArray[np.complex64] | None:
    found = _static(run, lookup, "probe")
    return None if found is None else np.asarray(found, np.complex64).reshape(-1, *found.shape[-2:])


def _choice(lookup: RunLookup, name: str, allowed: tuple[str, ...]) -> Any:
    value = lookup.require(name)
    if value not in allowed:
        raise ScanError(
            f"The {name} must be {' or '.join(allowed)}.",
            got=f"{value!r} from {lookup.sources[name]}.",
            remedy=f"correct it there, or set {name} in the recipe's [scan] table.",
        )
    return value


def _orientation(lookup: RunLookup) -> Orientation:
    if lookup.find("orientation") is None:
        lookup.sources["orientation"] = "absent: as_is by the metadata contract"
        return "as_is"
    return _choice(lookup, "orientation", get_args(Orientation))


def _regime(lookup: RunLookup, technique: Technique, focused: bool, warnings: list[str]) -> Any:
    implied = "near_field" if focused else technique.regime
    if lookup.find("regime") is None and implied is not None:
        lookup.sources["regime"] = "implied by " + ("focus_distance" if focused else technique.name)
        warnings.append(f"regime is not recorded; {implied} is assumed, {lookup.sources['regime']}")
        return implied
    return _choice(lookup, "regime", get_args(Regime))


def _energy_ev(lookup: RunLookup) -> float:
    energy = lookup.require("energy")
    value = float(np.mean(energy))
    if not np.isfinite(value) or value <= 0 or np.ptp(energy) > 1e-3 * value:
        raise ScanError(
            "The photon energy must be positive, finite and constant during a scan.",
            got=f"{np.min(energy)} to {np.max(energy)} eV from {lookup.sources['energy']}.",
            remedy="correct it there, or set energy_ev in the recipe's [scan] table.",
        )
    check_energy(value, source=lookup.sources["energy"])
    return value


def _pixel_size_m(lookup: RunLookup) -> tuple[float, float]:
    pitch = np.ravel(lookup.require("pixel_size"))
    if "primary:" in lookup.sources["pixel_size"] or "baseline:" in lookup.sources["pixel_size"]:
        pitch = pitch[:1]
    if len(pitch) not in (1, 2):
        raise ScanError(
            "The detector pixel size must be one number, or two (y, x).",
            got=f"{pitch.tolist()} from {lookup.sources['pixel_size']}.",
            remedy="correct it there, or set pixel_size_um in the recipe's [scan] table.",
        )
    return float(pitch[0]), float(pitch[-1])


def _focus_distance_m(
    lookup: RunLookup, found: NDArray[np.float64], key: NDArray[np.int_]
) -> float | tuple[float, ...]:
    """Return one distance, or one per view if the sample was moved along the beam."""
    per_view = _per_view(lookup, "focus_distance", found, key)
    return tuple(per_view.tolist()) if np.ptp(per_view) > 0 else float(per_view[0])


def _single_number(lookup: RunLookup, name: str, found: NDArray[np.float64]) -> float:
    if np.ptp(found) > 1e-3 * np.abs(found).max():
        raise ScanError(
            f"The {name.replace('_', ' ')} must not change during a scan.",
            got=f"{np.min(found)} to {np.max(found)} from {lookup.sources[name]}.",
            remedy=f"set {name} in the recipe's [scan] table.",
        )
    return float(np.mean(found))


def _position_m(lookup: RunLookup, technique: Technique, key: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return the probe positions on the sample (view, 2), (y, x), m: the negative of the sample translation."""
    columns = []
    for name in ("position_y", "position_x"):
        found = lookup.find(name)
        if found is None and technique.overlapping:
            raise lookup.missing(name)
        if found is None:
            found, lookup.sources[name] = np.zeros(()), "absent: the rotation axis"
        columns.append(-_per_view(lookup, name, found, key))
    return np.stack(columns, axis=1)


def _per_view(lookup: RunLookup, name: str, found: NDArray[np.float64], key: NDArray[np.int_]) -> NDArray[np.float64]:
    """Return one value per view, from a single value or from one value per event."""
    found, source = np.ravel(found), lookup.sources[name]
    if "baseline:" in source:
        found = found[:1]
    if len(found) == 1:
        return np.full(int((key == 0).sum()), found[0])
    if len(found) == len(key):
        return found[key == 0]
    raise ScanError(
        f"Every event needs one value of {name.replace('_', ' ')}.",
        got=f"{len(found)} values from {source} for {len(key)} events.",
        remedy="record it with every event, or once for the whole run.",
    )
