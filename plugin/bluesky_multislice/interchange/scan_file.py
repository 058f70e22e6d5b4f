"""The interchange file: CXI 1.6 / NXcxi_ptycho with NXtomo's fields where CXI has none (table in docs/interchange.md).

The file holds frames as the detector stored them; ``basis_vectors`` say how they are turned.
"""

import os
import shutil
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (registers the compression filters that detectors use)
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import FramesError, ScanError
from bluesky_multislice.frames import Frames, Orientation
from bluesky_multislice.geometry import Beam, Detector, ScanGeometry, Technique
from bluesky_multislice.instrument import Instrument
from bluesky_multislice.interchange.fields import DATA, DETECTOR, ENTRY, SAMPLE, SOURCE, FieldLookup
from bluesky_multislice.interchange.virtual_frames import FrameFile, check_virtual_sources, write_virtual
from bluesky_multislice.recipe import ScanValues
from bluesky_multislice.scan import Scan
from bluesky_multislice.units import (
    energy_ev_from_joule,
    energy_ev_from_wavelength,
    energy_joule_from_ev,
    wavelength_m_from_energy,
)

_BASIS: dict[Orientation, tuple[tuple[int, int], tuple[int, int]]] = {
    "as_is": ((1, 0), (0, 1)),
    "flip_y": ((-1, 0), (0, 1)),
    "flip_x": ((1, 0), (0, -1)),
    "flip_yx": ((-1, 0), (0, -1)),
    "transpose": ((0, 1), (1, 0)),
    "transpose_flip_y": ((0, 1), (-1, 0)),
    "transpose_flip_x": ((0, -1), (1, 0)),
    "transpose_flip_yx": ((0, -1), (-1, 0)),
}
"""Direction (y, x) in space of the stored row index and of the stored column index."""


def read_scan(path: Path, *, values: ScanValues | None = None, instrument: Instrument | None = None) -> Scan:
    """Read a scan; frames stay on disk until they are asked for.

    Args:
        path: the interchange file.
        values: values that overrule the file's.
        instrument: where else to look for values.

    Raises:
        ScanError: a value is missing or contradicts another.
        FramesError: frames are missing or fewer than the scan's views.
    """
    lookup = FieldLookup(_open(path), values or ScanValues(), instrument)
    data = lookup.file.get(DATA)
    if not isinstance(data, h5py.Dataset):
        raise FramesError(
            "A scan to reconstruct needs frames.",
            got=f"{path} without /{DATA}.",
            remedy="write the frames there, or make them with `multislice simulate`.",
        )
    check_virtual_sources(data)
    return _read(lookup, data)


def read_geometry(path: Path, *, values: ScanValues | None = None) -> Scan:
    """Read a scan without frames, for simulation; the frames returned are all zero, shaped like ``mask``.

    Raises:
        ScanError: a value is missing, or the file has no mask to give the frames' shape.
    """
    lookup = FieldLookup(_open(path), values or ScanValues(), None)
    mask = lookup.file.get(f"{DETECTOR}/mask")
    if not isinstance(mask, h5py.Dataset):
        raise lookup.missing("mask", f"{DETECTOR}/mask")
    rows = _rows_described(lookup.file)
    if rows == 0:
        raise lookup.missing("angle", f"{SAMPLE}/rotation_angle", f"{SAMPLE}/geometry_1/translation")
    return _read(lookup, np.broadcast_to(np.zeros(1, np.float32), (rows, *mask.shape)))


def write_scan(path: Path, scan: Scan, *, files: list[FrameFile] | tuple[FrameFile, ...] | None = None) -> None:
    """Write a scan as an interchange file.

    Args:
        path: the file to write.
        scan: the scan.
        files: HDF5 files whose datasets, one after the other, are the rows of the scan's frames: the frames are linked
            where they lie (virtual dataset). None copies them.
    """
    geometry, frames = scan.geometry, scan.frames
    order = np.concatenate([frames.rows, frames.dark_rows, frames.flat_rows]).astype(np.intp)
    image_key = np.repeat([0, 2, 1], [len(frames.rows), len(frames.dark_rows), len(frames.flat_rows)])
    padding = len(order) - geometry.views
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        file[f"{ENTRY}/technique"] = geometry.technique
        file[f"{SOURCE}/energy"] = energy_joule_from_ev(energy_ev_from_wavelength(geometry.beam.wavelength_m))
        if geometry.beam.focus_distance_m is not None:
            file[f"{SOURCE}/focus_distance"] = geometry.beam.focus_distance_m
        if scan.probe is not None:
            file[f"{SOURCE}/probe"] = scan.probe
        file[f"{DETECTOR}/regime"] = geometry.detector.regime
        file[f"{DETECTOR}/distance"] = (
            geometry.distance_m[0]
            if np.ptp(geometry.distance_m) == 0
            else (np.pad(geometry.distance_m, (0, padding), mode="edge"))
        )
        file[f"{DETECTOR}/y_pixel_size"], file[f"{DETECTOR}/x_pixel_size"] = geometry.detector.pixel_size_m
        file[f"{DETECTOR}/basis_vectors"] = _basis_vectors(frames.orientation, geometry.detector.pixel_size_m)
        file[f"{DETECTOR}/mask"] = np.where(frames.stored_mask, 0, 1).astype(np.uint32)
        if padding:
            file[f"{DETECTOR}/image_key"] = image_key.astype(np.uint8)
        if frames.saturation is not None:
            file[f"{DETECTOR}/saturation_value"] = frames.saturation
        translation = np.zeros((geometry.views, 3))
        translation[:, 0], translation[:, 1] = -geometry.position_m[:, 1], -geometry.position_m[:, 0]
        file[f"{SAMPLE}/geometry_1/translation"] = np.pad(translation, ((0, padding), (0, 0)))
        file[f"{SAMPLE}/rotation_angle"] = np.pad(np.degrees(geometry.angle_rad), (0, padding), mode="edge")
        if files is None:
            _copy_frames(file, frames, order)
        else:
            write_virtual(file, DATA, files, order)
        file[f"{ENTRY}/data_1/data"] = h5py.SoftLink(f"/{DATA}")


def write_predicted(path: Path, described: Path, frames: NDArray[np.float64], *, intensity_scale: float) -> None:
    """Write what ``described`` holds with frames added; the probe follows the frames' units.

    Args:
        path: the file to write; it appears only when it is complete.
        described: an interchange file without frames.
        frames: (view, y, x) as ``described`` says that they are stored.
        intensity_scale: what the frames of ``described``'s own probe were multiplied by.
    """
    part = path.with_name(path.name + ".part")
    shutil.copyfile(described, part)
    with h5py.File(part, "r+") as file:
        for name in (DATA, f"{ENTRY}/data_1/data"):
            if name in file:
                del file[name]
        file.create_dataset(DATA, data=frames, chunks=(1, *frames.shape[1:]))
        file[f"{ENTRY}/data_1/data"] = h5py.SoftLink(f"/{DATA}")
        probe = file.get(f"{SOURCE}/probe")
        if isinstance(probe, h5py.Dataset):
            probe[...] = probe[()] * np.sqrt(intensity_scale)
    os.replace(part, path)


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FramesError(
            "A scan's file must be readable HDF5.", got=f"{path}: {error}.", remedy="check the path and the file."
        ) from error


def _read(lookup: FieldLookup, data: h5py.Dataset | NDArray) -> Scan:
    values, warnings = lookup.values, list[str]()
    found = lookup.number("image_key", f"{DETECTOR}/image_key")
    key = np.zeros(data.shape[0], int) if found is None else found.astype(int)
    position_m, technique = _positions_and_technique(lookup, key, warnings)
    focus_distance_m = _focus_distance_m(lookup)
    frames = Frames(
        data,
        rows=np.flatnonzero(key == 0),
        dark_rows=np.flatnonzero(key == 2).tolist(),
        flat_rows=np.flatnonzero(key == 1).tolist(),
        mask=_good(lookup.file),
        orientation=_orientation(lookup),
        saturation=_optional(
            lookup.number(
                "saturation", f"{DETECTOR}/saturation_value", override=values.saturation, override_name="saturation"
            )
        ),
    )
    distance = lookup.required(
        "distance", f"{DETECTOR}/distance", override=values.distance_m, override_name="distance_m"
    )
    regime = _regime(lookup, technique, focus_distance_m is not None, warnings)
    geometry = ScanGeometry(
        technique=technique,
        beam=Beam(wavelength_m_from_energy(_energy_ev(lookup)), focus_distance_m),
        detector=Detector(frames.shape, _pixel_size_m(lookup), regime),
        distance_m=_by_view(lookup, "distance", distance, key),
        angle_rad=_angle_rad(lookup, key),
        position_m=position_m,
    )
    return Scan(geometry, frames, _probe(lookup), lookup.sources, tuple(warnings))


def _positions_and_technique(
    lookup: FieldLookup, key: NDArray, warnings: list[str]
) -> tuple[NDArray[np.float64], Technique]:
    """Return the probe's positions (view, 2), (y, x), the negative of the sample's translation (x, y, z)."""
    place = f"{SAMPLE}/geometry_1/translation"
    found = lookup.number("positions", place)
    translation = None if found is None else _by_view(lookup, "positions", found, key)
    technique = _technique(lookup, translation, warnings)
    if translation is not None:
        return -translation[:, [1, 0]], technique
    if technique == "ptychography":
        raise lookup.missing("positions", place)
    lookup.sources["positions"] = "absent: the rotation axis"
    return np.zeros((int((key == 0).sum()), 2)), technique


def _angle_rad(lookup: FieldLookup, key: NDArray) -> NDArray[np.float64]:
    place = f"{SAMPLE}/rotation_angle"
    angle = lookup.number("angle", place, override=lookup.values.angle_deg, override_name="angle_deg")
    if angle is None:
        angle, lookup.sources["angle"] = np.zeros(()), "absent: 0 by the interchange format"
    return np.radians(_by_view(lookup, "angle", angle, key))


def _pixel_size_m(lookup: FieldLookup) -> tuple[float, float]:
    pixel = None if lookup.values.pixel_size_um is None else lookup.values.pixel_size_um * 1e-6
    y, x = (
        float(
            lookup.required(
                "pixel_size", f"{DETECTOR}/{axis}_pixel_size", override=pixel, override_name="pixel_size_um"
            )
        )
        for axis in "yx"
    )
    return y, x


def _focus_distance_m(lookup: FieldLookup) -> float | None:
    override = None if lookup.values.focus_distance_mm is None else lookup.values.focus_distance_mm * 1e-3
    place = f"{SOURCE}/focus_distance"
    return _optional(lookup.number("focus_distance", place, override=override, override_name="focus_distance_mm"))


def _optional(value: NDArray | None) -> float | None:
    return None if value is None else float(value)


def _by_view(lookup: FieldLookup, name: str, found: NDArray[np.float64], key: NDArray) -> NDArray[np.float64]:
    """Spread one value over all views, or pick the views' rows from one value a stored frame."""
    views = int((key == 0).sum())
    if found.ndim == 0:
        return np.full(views, float(found))
    if len(found) == len(key):
        return found[key == 0]
    if len(found) == views:
        return found
    raise ScanError(
        f"A scan needs as many frames as {name} values.",
        got=f"{len(key)} frames and {len(found)} values of {name} in {lookup.file.filename}.",
        remedy="check whether the detector stopped early, or the file was cut.",
    )


def _technique(lookup: FieldLookup, translation: NDArray | None, warnings: list[str]) -> Technique:
    technique = lookup.text("technique", f"{ENTRY}/technique")
    if technique is None and translation is not None and len(np.unique(translation[:, :2], axis=0)) > 1:
        technique, lookup.sources["technique"] = "ptychography", "implied by positions that differ"
        warnings.append("technique is not recorded; taken as ptychography because the sample was translated")
    if technique is None:
        raise lookup.missing("technique", f"{ENTRY}/technique", override_name="technique")
    if technique not in ("ptychography", "holography"):
        raise ScanError(
            "The technique must be ptychography or holography.",
            got=f"{technique!r} from {lookup.sources['technique']}.",
            remedy="correct it, or give scan.technique in the recipe.",
        )
    return technique


def _regime(lookup: FieldLookup, technique: Technique, focus: bool, warnings: list[str]):
    regime = lookup.text("regime", f"{DETECTOR}/regime")
    if regime is None and (technique == "holography" or focus):
        regime, lookup.sources["regime"] = "near_field", "implied by " + ("focus_distance" if focus else "holography")
        warnings.append(f"regime is not recorded; taken as near_field, {lookup.sources['regime']}")
    elif regime is None:
        regime, lookup.sources["regime"] = "far_field", "absent: far field by the interchange format"
    if regime not in ("far_field", "near_field"):
        raise ScanError(
            "The regime must be far_field or near_field.",
            got=f"{regime!r} from {lookup.sources['regime']}.",
            remedy="correct it, or give scan.regime in the recipe.",
        )
    return regime


def _energy_ev(lookup: FieldLookup) -> float:
    if lookup.values.energy_ev is None and f"{SOURCE}/energy" in lookup.file:
        return energy_ev_from_joule(float(lookup.required("energy", f"{SOURCE}/energy")))
    return float(
        lookup.required("energy", f"{SOURCE}/energy", override=lookup.values.energy_ev, override_name="energy_ev")
    )


def _probe(lookup: FieldLookup) -> NDArray[np.complex64] | None:
    probe = lookup.file.get(f"{SOURCE}/probe")
    if not isinstance(probe, h5py.Dataset):
        return None
    lookup.sources["probe"] = f"/{SOURCE}/probe"
    return np.asarray(probe[()], np.complex64).reshape(-1, *probe.shape[-2:])


def _good(file: h5py.File) -> NDArray[np.bool_] | None:
    mask = file.get(f"{DETECTOR}/mask")
    return mask[()] == 0 if isinstance(mask, h5py.Dataset) else None


def _rows_described(file: h5py.File) -> int:
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
    vectors = found.T if found.shape == (3, 2) else found.reshape(2, 3)
    directions = tuple(
        tuple(int(part) for part in np.rint(vector[[1, 0]] / np.linalg.norm(vector))) for vector in vectors
    )
    for orientation, basis in _BASIS.items():
        if basis == directions:
            return orientation
    raise ScanError(
        "The detector must stand across the beam with its axes along x and y.",
        got=f"basis vectors {found.tolist()}.",
        remedy="correct basis_vectors, or give scan.orientation in the recipe.",
    )


def _basis_vectors(orientation: Orientation, pixel_size_m: tuple[float, float]) -> NDArray[np.float64]:
    basis = np.zeros((3, 2))
    for column, (along_y, along_x) in enumerate(_BASIS[orientation]):
        basis[1, column], basis[0, column] = along_y * pixel_size_m[0], along_x * pixel_size_m[1]
    return basis


def _copy_frames(file: h5py.File, frames: Frames, order: NDArray[np.intp]) -> None:
    shape = frames.source.shape[1:]
    data = file.create_dataset(DATA, (len(order), *shape), frames.source.dtype, chunks=(1, *shape))
    for at, row in enumerate(order):
        data[at] = frames.source[int(row) : int(row) + 1][0]
