"""Reads the interchange file: CXI 1.6, with NXtomo's fields for what CXI lacks (table in docs/interchange.md).

The file contains the frames as the detector stored them; ``basis_vectors`` gives their orientation.
"""

from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that detectors use)
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.files.basis_vectors import orientation_of
from bluesky_multislice.files.fields import DATA, DETECTOR, ENTRY, PIXELS_CHECKED, SAMPLE, SOURCE, FieldLookup
from bluesky_multislice.files.mask_file import recipe_mask
from bluesky_multislice.files.stored_frames import open_frames
from bluesky_multislice.measurement import (
    Beam,
    CombinedFrames,
    Detector,
    Frames,
    FrameSource,
    Orientation,
    Scan,
    ScanGeometry,
    check_energy,
    check_exposures,
    combined_frames,
    detector_positions_differ,
    good_pixels,
    mask_bad_pixels,
)
from bluesky_multislice.models import Technique, find_technique, techniques
from bluesky_multislice.recipe import Instrument, ScanValues
from bluesky_multislice.units import (
    energy_ev_from_joule,
    wavelength_m_from_energy,
)


def read_scan(path: Path, *, values: ScanValues | None = None, instrument: Instrument | None = None) -> Scan:
    """Read a scan. Frames stay on disk until they are indexed.

    Args:
        path: the interchange file.
        values: values that override the file's.
        instrument: instrument file, searched for values that the interchange file lacks.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: frames are missing, or there are fewer frames than views.
    """
    file, data = open_frames(path, (DATA,), _stored_row_count)
    lookup = FieldLookup(file, values or ScanValues(), instrument)
    if data is None:
        raise FramesError(
            "A reconstruction needs frames.",
            got=f"no /{DATA} in {path}.",
            remedy="write the frames there, or simulate them with `multislice simulate`.",
        )
    data.check_mask(_good_pixels(lookup))
    rows = _stored_row_count(file)
    source: FrameSource = data
    if data.per_view > 1 or (lookup.values.frames_per_view is not None and rows):
        views = rows or data.shape[0] // data.per_view
        combination, saturation = lookup.values.frames_per_view, _saturation(lookup)
        source = combined_frames(data, views, combination, origin=f"views in {path}", saturation=saturation)
    scan = _read(lookup, source)
    return scan if _pixels_checked(file) else mask_bad_pixels(scan)


def read_geometry(path: Path, *, values: ScanValues | None = None, instrument: Instrument | None = None) -> Scan:
    """Read a scan without frames, for simulation. The returned frames are zero and have the shape of ``mask``.

    Args:
        path: the interchange file.
        values: values that override the file's.
        instrument: instrument file, searched for values that the interchange file lacks.

    Raises:
        ScanError: a value is missing, or the file has no mask that gives the shape of the frames.
    """
    lookup = FieldLookup(_open(path), values or ScanValues(), instrument)
    mask = lookup.file.get(f"{DETECTOR}/mask")
    if not isinstance(mask, h5py.Dataset):
        raise lookup.missing("mask", f"{DETECTOR}/mask")
    rows = _stored_row_count(lookup.file)
    if rows == 0:
        raise lookup.missing("angle", f"{SAMPLE}/rotation_angle", f"{SAMPLE}/geometry_1/translation")
    return _read(lookup, np.broadcast_to(np.zeros(1, np.float32), (rows, *mask.shape)))


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FramesError(
            "An interchange file must be readable HDF5.", got=f"{path}: {error}.", remedy="check the path and the file."
        ) from error


def _read(lookup: FieldLookup, data: FrameSource) -> Scan:
    warnings = list[str]()
    found = lookup.number("image_key", f"{DETECTOR}/image_key")
    key = np.zeros(data.shape[0], int) if found is None else np.atleast_1d(found).astype(int)
    position_m, technique = _positions_and_technique(lookup, key, warnings)
    focus_distance_m = _focus_distance_m(lookup, key)
    distance = lookup.required(
        "distance", f"{DETECTOR}/distance", override=lookup.values.distance_m, override_name="distance_m"
    )
    check_exposures(_per_row(lookup.number("exposure", f"{DETECTOR}/count_time"), key), key)
    frames = Frames(
        data,
        rows=np.flatnonzero(key == 0),
        dark_rows=np.flatnonzero(key == 2).tolist(),
        flat_rows=np.flatnonzero(key == 1).tolist(),
        mask=_good_pixels(lookup),
        orientation=_orientation(lookup),
        saturation=data.saturation if isinstance(data, CombinedFrames) else _saturation(lookup),
        when=_frame_times(lookup, key),
        detector_position_m=_detector_position_m(lookup, distance, focus_distance_m, key),
    )
    regime = _regime(lookup, technique, focus_distance_m is not None, warnings)
    geometry = ScanGeometry(
        technique=technique.name,
        beam=Beam(wavelength_m_from_energy(_energy_ev(lookup)), focus_distance_m, *_source_blur(lookup)),
        detector=Detector(frames.shape, _pixel_size_m(lookup), regime, imaged=technique.imaged),
        distance_m=_per_view(lookup, "distance", distance, key),
        angle_rad=_angle_rad(lookup, key),
        position_m=position_m,
        values=_technique_values(lookup, technique),
    )
    return Scan(geometry, frames, _probe(lookup), lookup.sources, tuple(warnings))


def _positions_and_technique(
    lookup: FieldLookup, key: NDArray, warnings: list[str]
) -> tuple[NDArray[np.float64], Technique]:
    """Return the probe positions (view, 2), (y, x), which are the negative of the sample translation (x, y, z)."""
    place = f"{SAMPLE}/geometry_1/translation"
    found = lookup.number("positions", place)
    translation = None if found is None else _per_view(lookup, "positions", found, key)
    if translation is not None and (translation.ndim != 2 or translation.shape[1] not in (2, 3)):
        raise ScanError(
            "The sample translation must be (view, 3): x, y and z in metres.",
            got=f"shape {translation.shape} in {lookup.file.filename}.",
            remedy=f"correct /{place}.",
        )
    technique = _technique(lookup, translation, warnings)
    if translation is not None:
        return -translation[:, [1, 0]], technique
    if technique.overlapping:
        raise lookup.missing("positions", place)
    lookup.sources["positions"] = "absent: the rotation axis"
    return np.zeros((int((key == 0).sum()), 2)), technique


def _angle_rad(lookup: FieldLookup, key: NDArray) -> NDArray[np.float64]:
    place = f"{SAMPLE}/rotation_angle"
    angle = lookup.number("angle", place, override=lookup.values.angle_deg, override_name="angle_deg")
    if angle is None:
        angle, lookup.sources["angle"] = np.zeros(()), "absent: 0 by the interchange format"
    return np.radians(_per_view(lookup, "angle", angle, key))


def _pixel_size_m(lookup: FieldLookup) -> tuple[float, float]:
    pixel = None if lookup.values.pixel_size_um is None else lookup.values.pixel_size_um * 1e-6
    y, x = (
        lookup.required("pixel_size", f"{DETECTOR}/{axis}_pixel_size", override=pixel, override_name="pixel_size_um")
        for axis in "yx"
    )
    return lookup.single("pixel_size", y), lookup.single("pixel_size", x)


def _focus_distance_m(lookup: FieldLookup, key: NDArray) -> float | tuple[float, ...] | None:
    override = None if lookup.values.focus_distance_mm is None else lookup.values.focus_distance_mm * 1e-3
    place = f"{SOURCE}/focus_distance"
    found = lookup.number("focus_distance", place, override=override, override_name="focus_distance_mm")
    if found is None or found.ndim == 0:
        return None if found is None else float(found)
    per_view = _per_view(lookup, "focus_distance", found, key)
    return tuple(per_view.tolist()) if np.ptp(per_view) > 0 else float(per_view[0])


def _source_blur(lookup: FieldLookup) -> tuple[float, float]:
    """Return the source size, m, and the divergence, rad."""
    found = []
    for name, given, recipe_name in (
        ("source_size", lookup.values.source_size_um, "source_size_um"),
        ("divergence", lookup.values.divergence_urad, "divergence_urad"),
    ):
        override = None if given is None else given * 1e-6
        value = lookup.number(name, f"{SOURCE}/{name}", override=override, override_name=recipe_name)
        found.append(0.0 if value is None else lookup.single(name, value))
    return found[0], found[1]


def _saturation(lookup: FieldLookup) -> float | None:
    place = f"{DETECTOR}/saturation_value"
    found = lookup.number("saturation", place, override=lookup.values.saturation, override_name="saturation")
    return None if found is None else lookup.single("saturation", found)


def _per_view(lookup: FieldLookup, name: str, found: NDArray[np.float64], key: NDArray) -> NDArray[np.float64]:
    """Return one value per view, from a single value or from one value per stored frame."""
    views = int((key == 0).sum())
    if found.ndim == 0:
        return np.full(views, float(found))
    if len(found) == len(key):
        return found[key == 0]
    if len(found) == views:
        return found
    raise ScanError(
        f"The number of frames must equal the number of {name} values.",
        got=f"{len(key)} frames and {len(found)} values of {name} in {lookup.file.filename}.",
        remedy="check whether the detector stopped early or the file was truncated.",
    )


def _per_row(found: NDArray[np.float64] | None, key: NDArray) -> NDArray[np.float64]:
    """Return one value per stored frame, from a single value or one per view; NaN for darks and flats without one."""
    rows = np.full(len(key), np.nan)
    if found is not None and found.ndim == 1 and len(found) == int((key == 0).sum()):
        rows[key == 0] = found
    elif found is not None and (found.ndim == 0 or len(found) == len(key)):
        rows[:] = found
    return rows


def _frame_times(lookup: FieldLookup, key: NDArray) -> NDArray[np.float64] | None:
    """Return the time of every stored frame; None if only their order is known."""
    found = lookup.number("frame_times", f"{DETECTOR}/start_time")
    return found if found is not None and found.shape == key.shape else None


def _detector_position_m(
    lookup: FieldLookup, distance: NDArray[np.float64], focus_distance_m: float | tuple[float, ...] | None, key: NDArray
) -> NDArray[np.float64] | None:
    """Return the detector's position along the beam for every stored frame; None if it did not move.

    The position is the distance from the focus, or from z = 0 in a parallel beam. Only this matters for flats, because
    they do not contain the sample.
    """
    position = _per_row(distance, key)
    if isinstance(focus_distance_m, tuple):
        position = position + _per_row(lookup.number("focus_distance", f"{SOURCE}/focus_distance"), key)
    else:
        position = position + (focus_distance_m or 0.0)
    return position if detector_positions_differ(position[key == 0]) else None


def _technique(lookup: FieldLookup, translation: NDArray | None, warnings: list[str]) -> Technique:
    name = lookup.text("technique", f"{ENTRY}/technique")
    if name is None and translation is not None and len(np.unique(translation[:, :2], axis=0)) > 1:
        name, lookup.sources["technique"] = "ptychography", "implied by positions that differ"
        warnings.append("technique is not recorded; ptychography is assumed because the sample was translated")
    if name is None:
        raise lookup.missing("technique", f"{ENTRY}/technique", override_name="technique")
    if name not in techniques():
        raise ScanError(
            f"The technique must be {' or '.join(techniques())}.",
            got=f"{name!r} from {lookup.sources['technique']}.",
            remedy="correct it, or set scan.technique in the recipe.",
        )
    return find_technique(name)


def _technique_values(lookup: FieldLookup, technique: Technique) -> dict[str, float]:
    """Return the values that are specific to this technique."""
    found = {}
    for field in technique.fields:
        place, given = f"{ENTRY}/{field.place}", lookup.values.values.get(field.name)
        value = lookup.required(field.name, place, override=given, override_name=f"values.{field.name}")
        found[field.name] = lookup.single(field.name, value)
    return found


def _regime(lookup: FieldLookup, technique: Technique, focus: bool, warnings: list[str]):
    regime = lookup.text("regime", f"{DETECTOR}/regime")
    implied = "near_field" if focus else technique.regime
    if regime is None and implied is not None:
        regime, lookup.sources["regime"] = implied, "implied by " + ("focus_distance" if focus else technique.name)
        warnings.append(f"regime is not recorded; {regime} is assumed, {lookup.sources['regime']}")
    elif regime is None:
        regime, lookup.sources["regime"] = "far_field", "absent: far field by the interchange format"
    if regime not in ("far_field", "near_field"):
        raise ScanError(
            "The regime must be far_field or near_field.",
            got=f"{regime!r} from {lookup.sources['regime']}.",
            remedy="correct it, or set scan.regime in the recipe.",
        )
    return regime


def _energy_ev(lookup: FieldLookup) -> float:
    place = f"{SOURCE}/energy"
    found = lookup.required("energy", place, override=lookup.values.energy_ev, override_name="energy_ev")
    energy = lookup.single("energy", found)
    if not (np.isfinite(energy) and energy > 0):
        raise ScanError(
            "The energy must be positive and finite.",
            got=f"{energy:g} from {lookup.sources['energy']}.",
            remedy="correct it in the file (joule), the instrument file or the recipe's [scan] table.",
        )
    energy_ev = energy_ev_from_joule(energy) if lookup.sources["energy"] == f"/{place}" else energy
    check_energy(energy_ev, source=lookup.sources["energy"])
    return energy_ev


def _probe(lookup: FieldLookup) -> NDArray[np.complex64] | None:
    probe = lookup.file.get(f"{SOURCE}/probe")
    if not isinstance(probe, h5py.Dataset):
        return None
    if probe.ndim not in (2, 3):
        raise ScanError(
            "A probe must be (mode, y, x) or (y, x).",
            got=f"an array {probe.shape} in {lookup.file.filename}.",
            remedy=f"correct /{SOURCE}/probe, or omit it: the initial guess is then derived from the frames.",
        )
    lookup.sources["probe"] = f"/{SOURCE}/probe"
    return np.asarray(probe[()], np.complex64).reshape(-1, *probe.shape[-2:])


def _good_pixels(lookup: FieldLookup) -> NDArray[np.bool_] | None:
    given = recipe_mask(lookup.values)
    if given is not None:
        lookup.sources["mask"] = f"recipe scan.mask: {lookup.values.mask}"
        return given
    mask = lookup.file.get(f"{DETECTOR}/mask")
    if not isinstance(mask, h5py.Dataset):
        return None
    lookup.sources["mask"] = f"/{DETECTOR}/mask"
    declared = "good_is_zero" if _pixels_checked(lookup.file) else None
    origin = f"{lookup.file.filename}, /{DETECTOR}/mask"
    return good_pixels(mask[()], origin=origin, sense=lookup.values.mask_sense or declared)


def _pixels_checked(file: h5py.File) -> bool:
    """Return whether the mask was written by this package and includes all bad pixels."""
    mask = file.get(f"{DETECTOR}/mask")
    return isinstance(mask, h5py.Dataset) and PIXELS_CHECKED in mask.attrs


def _stored_row_count(file: h5py.File) -> int:
    for place in (f"{DETECTOR}/image_key", f"{SAMPLE}/geometry_1/translation", f"{SAMPLE}/rotation_angle"):
        found = file.get(place)
        if isinstance(found, h5py.Dataset) and found.ndim:
            return found.shape[0]
    return 0


def _orientation(lookup: FieldLookup) -> Orientation:
    if lookup.values.orientation is not None:
        lookup.sources["orientation"] = "recipe scan.orientation"
        return lookup.values.orientation
    found = lookup.number("orientation", f"{DETECTOR}/basis_vectors")
    if found is None:
        lookup.sources["orientation"] = "absent: as_is"
        return "as_is"
    return orientation_of(found)
