"""Makes the geometry of a scan from looked-up values. File formats and Bluesky runs differ only in the look-up."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any, Protocol, cast, get_args

import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement.found_value import FoundValue, constant
from bluesky_multislice.measurement.frames import Orientation
from bluesky_multislice.measurement.geometry import Beam, Detector, Regime, ScanGeometry
from bluesky_multislice.measurement.half_acquisition import with_moved_axis
from bluesky_multislice.measurement.plausibility import check_energy, energy_problem
from bluesky_multislice.measurement.read_back import group_geometry
from bluesky_multislice.measurement.scan_fields import ScanField
from bluesky_multislice.units import wavelength_m_from_energy

_FLAT, _DARK, _NOT_USED = 1, 2, 3
"""NXtomo's image keys of rows that are no views."""

_MOST_ROTATION_RAD = np.radians(10.0) + 1e-6
"""Largest rotation of the detector in its plane; a larger one is more likely an error of its basis vectors."""

_MOST_INCLINED_PIXELS = 0.5
"""Largest displacement of the end of the rotation axis by the detector's rotation, which is then neglected."""


class ScanValueLookup(Protocol):
    """Look-up of the values of one scan by the names of its fields.

    Attributes:
        sources: field → source of its value.
        warnings: warnings about values.
        absent: fields that the scan does not record and that have a default value.
    """

    sources: dict[str, str]
    warnings: list[str]
    absent: set[str]

    def candidates(self, name: str) -> Iterator[FoundValue]:
        """Return all values of a field, in the order of search."""
        ...

    def find(self, name: str) -> FoundValue | None:
        """Return the first value of a field and record its source; None if there is none."""
        ...

    def require(self, name: str) -> FoundValue:
        """Return the first value of a field, or the format's default.

        Raises:
            ScanError: there is neither; the error lists all searched places.
        """
        ...

    def missing(self, name: str) -> ScanError:
        """Return the error for a field that was not found."""
        ...


class TechniqueTraits(Protocol):
    """The properties of a technique that the geometry depends on; ``models.Technique`` has them."""

    @property
    def name(self) -> str:
        """Name of the technique."""
        ...

    @property
    def overlapping(self) -> bool:
        """Whether a probe is scanned over the sample."""
        ...

    @property
    def regime(self) -> Regime | None:
        """Regime of a scan that does not record it; None if every scan must record it."""
        ...

    @property
    def imaged(self) -> bool:
        """Whether a lens images the sample onto the detector."""
        ...

    @property
    def fields(self) -> Sequence[ScanField]:
        """Numbers that only this technique has."""
        ...


def image_keys(lookup: ScanValueLookup, rows: int) -> NDArray[np.intp]:
    """Return (row,) the kind of each stored frame: 0 frame, 1 flat, 2 dark, 3 not used.

    Args:
        lookup: the scan's values.
        rows: number of stored frames.

    Raises:
        ScanError: there is not one key per stored frame, or no frame of the sample.
    """
    key = _image_key(lookup, "image_key", rows)
    control = _image_key(lookup, "image_key_control", rows)
    if key is None or control is None:
        key = control if key is None else key
    else:
        key = np.where(control == _NOT_USED, _NOT_USED, key)
    key = np.zeros(rows, np.intp) if key is None else key
    if not (key == 0).any():
        raise ScanError(
            "A scan needs at least one view: at least one image_key must be 0 (a frame).",
            got=f"{rows} stored frames, {int((key == _FLAT).sum())} flats and {int((key == _DARK).sum())} darks.",
            remedy="record image_key for every frame: 0 frame, 1 flat, 2 dark.",
        )
    return key


def chosen(name: str, found: FoundValue, allowed: Iterable[str]) -> str:
    """Return a word that must be one of several.

    Raises:
        ScanError: it is another word.
    """
    words = tuple(allowed)
    if found.value in words:
        return str(found.value)
    raise ScanError(
        f"The {name} must be {' or '.join(words)}.",
        got=f"{found.value!r} from {found.source}.",
        remedy=f"correct it there, or set {name} in the recipe's [scan] table.",
    )


def orientation_of_frames(lookup: ScanValueLookup) -> Orientation:
    """Return the orientation of the stored frames.

    Raises:
        ScanError: it is none of the eight orientations.
    """
    return cast(Orientation, chosen("orientation", lookup.require("orientation"), get_args(Orientation)))


def single_number(lookup: ScanValueLookup, name: str) -> float | None:
    """Return a number that must not change during the scan; None if it is not recorded.

    Raises:
        ScanError: it changes.
    """
    found = lookup.find(name)
    return None if found is None else _single(name, found)


def detector_position_m(lookup: ScanValueLookup, key: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (row,) the detector's position along the beam for every stored frame; NaN: unknown.

    The position is the distance from the focus, or from z = 0 in a parallel beam. Only this matters for flats, because
    they do not contain the sample.
    """
    position = per_row(lookup.require("distance"), key)
    focus = lookup.find("focus_distance")
    if focus is not None:
        position = position + per_row(focus, key)
    return position


def per_row(found: FoundValue | None, key: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (row,) one value per stored frame; NaN for rows without a value."""
    rows, values = np.full(len(key), np.nan), None if found is None else np.ravel(found.value)
    views = key == 0
    if values is not None and len(values) in (1, len(key)):
        rows[:] = values
    elif values is not None and len(values) == views.sum():
        rows[views] = values
    return rows


def scan_geometry(
    lookup: ScanValueLookup, technique: TechniqueTraits, key: NDArray[np.intp], stored_shape: tuple[int, ...]
) -> ScanGeometry:
    """Return the geometry of a scan, with read-back noise grouped. What was grouped is added to the sources.

    Args:
        lookup: the scan's values.
        technique: the scan's technique.
        key: (row,) ``image_key`` of each stored frame.
        stored_shape: shape (..., y, x) of the frames as the detector stored them.

    Raises:
        ScanError: a value is missing or contradicts another.
    """
    value = {name: find() for name, find in geometry_values(lookup, technique, key).items()}
    ny, nx = stored_shape[-2:]
    shape = (nx, ny) if value["orientation"].startswith("transpose") else (ny, nx)
    geometry = ScanGeometry(
        technique=technique.name,
        beam=Beam(
            wavelength_m_from_energy(value["energy"]),
            value["focus_distance"],
            value["source_size"] or 0.0,
            value["divergence"] or 0.0,
        ),
        detector=Detector(shape, value["pixel_size"], value["regime"], imaged=technique.imaged),
        distance_m=value["distance"],
        angle_rad=value["angle"],
        position_m=np.stack([value["position_y"], value["position_x"]], axis=1),
        values={field.name: value[field.name] for field in technique.fields},
    )
    geometry, notes = group_geometry(geometry, overlapping=technique.overlapping)
    for name, note in notes.items():
        lookup.sources[name] += f"; {note}"
    geometry = _along_detector(lookup, geometry, value["detector_rotation"])
    if technique.overlapping and value["rotation_axis"]:
        lookup.warnings.append(
            f"the rotation axis {value['rotation_axis']:+g} pixels from the middle of the frames is not used: "
            f"positions of {technique.name} are about the rotation axis"
        )
    return geometry if technique.overlapping else _about_axis(lookup, geometry, value["rotation_axis"])


def _along_detector(lookup: ScanValueLookup, geometry: ScanGeometry, rotation_rad: float) -> ScanGeometry:
    """Return the geometry with positions along the axes of a detector that is rotated in its plane.

    In these axes the frames are as stored, and the sample and its translations are rotated the other way. This is exact
    if the sample is not rotated. Otherwise the rotation axis is inclined in the frames.

    Raises:
        ScanError: the rotation is too large, or inclines the rotation axis by too much.
    """
    if rotation_rad == 0:
        return geometry
    y_m, x_m = geometry.position_m.T
    several_angles = len(np.unique(geometry.angle_rad)) > 1
    half_height = (np.ptp(y_m) / geometry.object_pixel_m[0] + geometry.detector.shape[0]) / 2
    inclined_pixels = abs(rotation_rad) * half_height if several_angles else 0.0
    source = lookup.sources.get("detector_rotation", "")
    if abs(rotation_rad) > _MOST_ROTATION_RAD or inclined_pixels > _MOST_INCLINED_PIXELS:
        raise ScanError(
            "A detector may be rotated in its plane by at most 10°, and for several angles of the sample only as far "
            "as the rotation axis stays within a pixel of a column over the height of the frames.",
            got=f"a rotation by {np.degrees(rotation_rad):.2f}°"
            + (f", {2 * inclined_pixels:.1f} pixels over the height" if several_angles else "")
            + f", from {source}.",
            remedy="correct the basis vectors, rotate the frames upright, or set scan.orientation or "
            "scan.detector_rotation_deg = 0 in the recipe if the detector is not rotated.",
        )
    lookup.warnings.append(
        f"the detector is rotated in its plane by {np.degrees(rotation_rad):.3g}° ({source}): positions and volume are "
        "along the detector's axes"
    )
    cosine, sine = np.cos(rotation_rad), np.sin(rotation_rad)
    along_m = np.stack([cosine * y_m - sine * x_m, sine * y_m + cosine * x_m], axis=1)
    return replace(geometry, position_m=along_m)


def _about_axis(lookup: ScanValueLookup, geometry: ScanGeometry, axis_pixels: float) -> ScanGeometry:
    """Return the geometry about a rotation axis that is this many pixels along x from the middle of the frames."""
    if axis_pixels == 0:
        return geometry
    lookup.absent.discard("position_x")
    lookup.sources["position_x"] += f"; the rotation axis is {axis_pixels:+g} pixels from the middle of the frames"
    return with_moved_axis(geometry, axis_pixels, geometry.object_pixel_m[1])


def geometry_values(
    lookup: ScanValueLookup, technique: TechniqueTraits, key: NDArray[np.intp]
) -> dict[str, Callable[[], Any]]:
    """Return the values of which a geometry is made: field → function that looks it up.

    Each function returns the value in the unit of its field, one number per view where the field has one, and raises a
    ``ScanError`` if the value is missing or unusable. Positions are those of the probe on the sample.

    Args:
        lookup: the scan's values.
        technique: the scan's technique.
        key: (row,) ``image_key`` of each stored frame.
    """

    @cache
    def regime() -> Regime:
        return _regime(lookup, technique)

    def focus_distance_m() -> float | tuple[float, ...] | None:
        found = lookup.find("focus_distance")
        return None if found is None else _focus_distance_m(found, key, regime())

    values: dict[str, Callable[[], Any]] = {
        "orientation": lambda: orientation_of_frames(lookup),
        "position_y": lambda: _position_m(lookup, technique, key, "position_y"),
        "position_x": lambda: _position_m(lookup, technique, key, "position_x"),
        "regime": regime,
        "energy": lambda: _energy_ev(lookup),
        "focus_distance": focus_distance_m,
        "detector_rotation": lambda: single_number(lookup, "detector_rotation") or 0.0,
        "rotation_axis": lambda: single_number(lookup, "rotation_axis") or 0.0,
        "source_size": partial(single_number, lookup, "source_size"),
        "divergence": partial(single_number, lookup, "divergence"),
        "pixel_size": lambda: _pixel_size_m(lookup),
        "distance": lambda: _per_view("distance", lookup.require("distance"), key),
        "angle": lambda: _per_view("angle", lookup.require("angle"), key),
    }
    return values | {field.name: partial(_required_number, lookup, field.name) for field in technique.fields}


def _required_number(lookup: ScanValueLookup, name: str) -> float:
    return _single(name, lookup.require(name))


def _image_key(lookup: ScanValueLookup, name: str, rows: int) -> NDArray[np.intp] | None:
    """Return (row,) keys from 0 to 3; −1, an alignment frame of an NXtomo, becomes 3."""
    found = lookup.find(name)
    if found is None:
        return None
    values = np.ravel(found.value)
    if len(values) != rows:
        raise ScanError(
            f"Every stored frame needs one {name}.",
            got=f"{len(values)} values of {name} for {rows} frames, from {found.source}.",
            remedy=f"record {name} with every frame: 0 frame, 1 flat, 2 dark.",
        )
    other = np.flatnonzero(~np.isin(values, (-1, 0, _FLAT, _DARK, _NOT_USED)))
    if other.size:
        raise ScanError(
            f"The {name} must be 0 (frame), 1 (flat), 2 (dark) or 3 (not used).",
            got=f"{values[other[0]]:g} in row {other[0]}, from {found.source}.",
            remedy=f"correct {name}.",
        )
    return np.where(values < 0, _NOT_USED, values).astype(np.intp)


def _position_m(
    lookup: ScanValueLookup, technique: TechniqueTraits, key: NDArray[np.intp], name: str
) -> NDArray[np.float64]:
    """Return one coordinate (view,) of the probe on the sample, m: the negative of the sample translation."""
    found = lookup.find(name)
    if found is None and technique.overlapping:
        raise lookup.missing(name)
    if found is None:
        found = FoundValue(np.zeros(()), "absent: the rotation axis")
        lookup.sources[name] = found.source
        lookup.absent.add(name)
    return -_per_view(name, found, key)


def _regime(lookup: ScanValueLookup, technique: TechniqueTraits) -> Regime:
    focused = lookup.find("focus_distance") is not None
    found, implied = lookup.find("regime"), "near_field" if focused else technique.regime
    if found is None and implied is not None:
        found = FoundValue(implied, "implied by " + ("focus_distance" if focused else technique.name))
        lookup.sources["regime"] = found.source
        lookup.warnings.append(f"regime is not recorded; {implied} is assumed, {found.source}")
    return cast(Regime, chosen("regime", found or lookup.require("regime"), get_args(Regime)))


def _energy_ev(lookup: ScanValueLookup) -> float:
    """Return the first plausible photon energy. A source's energy may be that of the storage ring."""
    first, skipped = None, list[str]()
    for found in lookup.candidates("energy"):
        energy_ev = _single("energy", found)
        first = first or (energy_ev, found.source)
        if energy_problem(energy_ev) is None:
            lookup.sources["energy"] = found.source
            if np.ptp(found.value) > 0:
                lookup.sources["energy"] += (
                    f"; mean of {np.size(found.value)} readings, at most {np.ptp(found.value):.2g} eV apart"
                )
            lookup.warnings += skipped
            return energy_ev
        skipped.append(f"{energy_ev:g} eV from {found.source} is not a photon energy and is not used")
    if first is None:
        raise lookup.missing("energy")
    energy_ev, source = first
    if not (np.isfinite(energy_ev) and energy_ev > 0):
        raise ScanError(
            "The photon energy must be positive and finite.",
            got=f"{energy_ev:g} eV from {source}.",
            remedy="correct it there, or set energy_ev in the recipe's [scan] table.",
        )
    check_energy(energy_ev, source=source)
    return energy_ev


def _pixel_size_m(lookup: ScanValueLookup) -> tuple[float, float]:
    found = lookup.require("pixel_size")
    pitch = np.ravel(found.value if found.place == "single" else _single("pixel_size", found))
    if len(pitch) not in (1, 2):
        raise ScanError(
            "The detector pixel size must be one number, or two (y, x).",
            got=f"{pitch.tolist()} from {found.source}.",
            remedy="correct it there, or set pixel_size_um in the recipe's [scan] table.",
        )
    return float(pitch[0]), float(pitch[-1])


def _focus_distance_m(found: FoundValue, key: NDArray[np.intp], regime: Regime) -> float | tuple[float, ...]:
    """Return one distance, or one per view if the sample was moved along a near-field beam."""
    if regime == "far_field":
        return _single("focus_distance", found)
    views_m = _per_view("focus_distance", found, key)
    return tuple(views_m.tolist()) if np.ptp(views_m) > 0 else float(views_m[0])


def _single(name: str, found: FoundValue) -> float:
    return constant(found.value, name.replace("_", " "), found.source)


def _per_view(name: str, found: FoundValue, key: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (view,) one value per view, from a single value, one value per stored frame or one per view."""
    values, views = np.ravel(found.value), key == 0
    if found.place == "baseline":  # Read before and after the scan.
        values = values[:1]
    if len(values) not in (1, len(key), views.sum()):
        raise ScanError(
            f"Every frame needs one value of {name.replace('_', ' ')}, or the scan a single one.",
            got=f"{len(key)} frames and {len(values)} values of {name} from {found.source}.",
            remedy="check whether the detector stopped early or the recording was truncated.",
        )
    values = values[views] if len(values) == len(key) else np.broadcast_to(values, views.sum()).astype(float)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise ScanError(
            f"Every {name.replace('_', ' ')} must be a finite number.",
            got=f"{bad.size} views without one, the first is view {bad[0]}; from {found.source}.",
            remedy="repair the scan's motor readings, or omit those frames.",
        )
    return values
