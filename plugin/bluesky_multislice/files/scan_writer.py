"""Writes the interchange file."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.files.basis_vectors import basis_vectors
from bluesky_multislice.files.mask_file import PIXELS_CHECKED
from bluesky_multislice.files.virtual_frames import FrameFile, write_virtual
from bluesky_multislice.measurement import SCAN_FIELDS, Frames, Scan
from bluesky_multislice.recipe import scan_fields
from bluesky_multislice.units import energy_ev_from_wavelength, energy_joule_from_ev

ENTRY = "entry_1"
"""The entry of an interchange file."""

DATA = f"{ENTRY}/{SCAN_FIELDS['frames'].place}"
"""Path of the frames in an interchange file."""


def write_scan(path: Path, scan: Scan, *, files: Sequence[FrameFile] | None = None) -> None:
    """Write a scan as an interchange file.

    Args:
        path: the file to write.
        scan: the scan.
        files: HDF5 files whose concatenated datasets are the rows of the scan's frames. The frames are then linked
            with a virtual dataset. None: the frames are copied.
    """
    geometry, frames = scan.geometry, scan.frames
    order = np.concatenate([frames.rows, frames.dark_rows, frames.flat_rows]).astype(np.intp)
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        for name, value in _values(scan, order).items():
            if value is not None:
                file[f"{ENTRY}/{scan_fields()[name].place}"] = value
        file[f"{ENTRY}/{SCAN_FIELDS['mask'].place}"].attrs[PIXELS_CHECKED] = True
        for axis, pitch_m in zip("yx", geometry.detector.pixel_size_m, strict=True):
            file[f"{ENTRY}/{SCAN_FIELDS['pixel_size'].place.format(axis=axis)}"] = pitch_m
        if files is None:
            _copy_frames(file, frames, order)
        else:
            write_virtual(file, DATA, files, order)
        file[f"{ENTRY}/data_1/data"] = h5py.SoftLink(f"/{DATA}")


def write_simulated(path: Path, described: Path, frames: NDArray[np.float64], *, intensity_scale: float) -> None:
    """Copy an interchange file, add simulated frames, and scale the probe to the units of the frames.

    Args:
        path: the file to write; it gets this name only after it is complete.
        described: an interchange file without frames.
        frames: (view, y, x) in the stored orientation of ``described``.
        intensity_scale: factor by which the simulated intensities were multiplied.
    """
    part = path.with_name(path.name + ".part")
    shutil.copyfile(described, part)
    with h5py.File(part, "r+") as file:
        for name in (DATA, f"{ENTRY}/data_1/data"):
            if name in file:
                del file[name]
        file.create_dataset(DATA, data=frames, chunks=(1, *frames.shape[1:]))
        file[f"{ENTRY}/data_1/data"] = h5py.SoftLink(f"/{DATA}")
        probe = file.get(f"{ENTRY}/{SCAN_FIELDS['probe'].place}")
        if isinstance(probe, h5py.Dataset):
            probe[...] = probe[()] * np.sqrt(intensity_scale)
    os.replace(part, path)


def _values(scan: Scan, order: NDArray[np.intp]) -> dict[str, Any]:
    """Return the values of an interchange file by the names of their fields; None: not written."""
    geometry, frames = scan.geometry, scan.frames
    image_key = np.repeat([0, 2, 1], [len(frames.rows), len(frames.dark_rows), len(frames.flat_rows)])
    padding = len(order) - geometry.views
    return dict(geometry.values) | {
        "technique": geometry.technique,
        "regime": geometry.detector.regime,
        "energy": energy_joule_from_ev(energy_ev_from_wavelength(geometry.beam.wavelength_m)),
        "focus_distance": _focus_distance_m(scan, padding),
        "source_size": geometry.beam.source_size_m or None,
        "divergence": geometry.beam.divergence_rad or None,
        "probe": scan.probe,
        "distance": _distance_m(scan, order),
        "orientation": basis_vectors(frames.orientation, geometry.detector.pixel_size_m),
        "mask": np.where(frames.stored_mask, 0, 1).astype(np.uint32),
        "image_key": image_key.astype(np.uint8) if padding else None,
        "frame_times": frames.when[order] if padding else None,
        "saturation": frames.saturation,
        "position_x": np.pad(_translation_m(scan), ((0, padding), (0, 0))),
        "angle": np.pad(np.degrees(geometry.angle_rad), (0, padding), mode="edge"),
    }


def _distance_m(scan: Scan, order: NDArray[np.intp]) -> float | NDArray[np.float64]:
    """Return the distance, or the distances of all rows. A flat's distance gives its detector position."""
    geometry, frames = scan.geometry, scan.frames
    if np.ptp(geometry.distance_m) == 0:
        return float(geometry.distance_m[0])
    distance_m = np.pad(geometry.distance_m, (0, len(order) - geometry.views), mode="edge")
    if frames.detector_position_m is not None:
        distance_m[geometry.views :] = frames.detector_position_m[order[geometry.views :]]
        if geometry.focus_distance_m is not None:
            distance_m[geometry.views :] -= geometry.focus_distance_m[-1]
    return distance_m


def _focus_distance_m(scan: Scan, padding: int) -> float | NDArray[np.float64] | None:
    """Return the focus distance, or those of all rows; None for a parallel beam."""
    focus_m = scan.geometry.beam.focus_distance_m
    return np.pad(focus_m, (0, padding), mode="edge") if isinstance(focus_m, tuple) else focus_m


def _translation_m(scan: Scan) -> NDArray[np.float64]:
    """Return the sample's translation (view, 3), (x, y, z)."""
    translation = np.zeros((scan.geometry.views, 3))
    translation[:, 0], translation[:, 1] = -scan.geometry.position_m[:, 1], -scan.geometry.position_m[:, 0]
    return translation


def _copy_frames(file: h5py.File, frames: Frames, order: NDArray[np.intp]) -> None:
    shape = frames.source.shape[1:]
    data = file.create_dataset(DATA, (len(order), *shape), frames.source.dtype, chunks=(1, *shape))
    for index, row in enumerate(order):
        data[index] = frames.source[int(row) : int(row) + 1][0]
