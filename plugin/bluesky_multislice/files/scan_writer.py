"""Writes the interchange file."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.files.basis_vectors import basis_vectors
from bluesky_multislice.files.fields import DATA, DETECTOR, ENTRY, PIXELS_CHECKED, SAMPLE, SOURCE
from bluesky_multislice.files.virtual_frames import FrameFile, write_virtual
from bluesky_multislice.measurement import Frames, Scan
from bluesky_multislice.models import technique_fields
from bluesky_multislice.units import energy_ev_from_wavelength, energy_joule_from_ev


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
    image_key = np.repeat([0, 2, 1], [len(frames.rows), len(frames.dark_rows), len(frames.flat_rows)])
    padding = len(order) - geometry.views
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 160
        file["number_of_entries"] = 1
        file[f"{ENTRY}/technique"] = geometry.technique
        file[f"{SOURCE}/energy"] = energy_joule_from_ev(energy_ev_from_wavelength(geometry.beam.wavelength_m))
        focus = geometry.beam.focus_distance_m
        if focus is not None:
            each = isinstance(focus, tuple)
            file[f"{SOURCE}/focus_distance"] = np.pad(focus, (0, padding), mode="edge") if each else focus
        for name, value in (("source_size", geometry.beam.source_size_m), ("divergence", geometry.beam.divergence_rad)):
            if value:
                file[f"{SOURCE}/{name}"] = value
        for name, field in technique_fields().items():
            if name in geometry.values:
                file[f"{ENTRY}/{field.place}"] = geometry.values[name]
        if scan.probe is not None:
            file[f"{SOURCE}/probe"] = scan.probe
        file[f"{DETECTOR}/regime"] = geometry.detector.regime
        file[f"{DETECTOR}/distance"] = _distance_m(scan, order)
        file[f"{DETECTOR}/y_pixel_size"], file[f"{DETECTOR}/x_pixel_size"] = geometry.detector.pixel_size_m
        file[f"{DETECTOR}/basis_vectors"] = basis_vectors(frames.orientation, geometry.detector.pixel_size_m)
        file[f"{DETECTOR}/mask"] = np.where(frames.stored_mask, 0, 1).astype(np.uint32)
        file[f"{DETECTOR}/mask"].attrs[PIXELS_CHECKED] = True
        if padding:
            file[f"{DETECTOR}/image_key"] = image_key.astype(np.uint8)
            file[f"{DETECTOR}/start_time"] = frames.when[order]
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
        probe = file.get(f"{SOURCE}/probe")
        if isinstance(probe, h5py.Dataset):
            probe[...] = probe[()] * np.sqrt(intensity_scale)
    os.replace(part, path)


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


def _copy_frames(file: h5py.File, frames: Frames, order: NDArray[np.intp]) -> None:
    shape = frames.source.shape[1:]
    data = file.create_dataset(DATA, (len(order), *shape), frames.source.dtype, chunks=(1, *shape))
    for index, row in enumerate(order):
        data[index] = frames.source[int(row) : int(row) + 1][0]
