"""The result file: the arrays and tables of ``result_arrays``, refined quantities and provenance.

The file has the attributes ``technique``, ``regime`` and ``verdict``. ``/delta`` and ``/beta`` have the attributes
``voxel_size_m`` (z, y, x), ``center_m`` (z, y, x) relative to the rotation axis, ``energy_ev`` and ``axes``. ``/probe``
has ``oversampling`` (pixels per detector pixel and axis) and ``frame_intensity`` (mean intensity of the fitted frames
per detector pixel). The group ``/refined`` contains the refined quantities by recipe name, as differences from the
scan's values in SI units. ``/provenance`` is JSON.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.result_arrays import RESULT_TABLES, ResultArray, result_arrays
from bluesky_multislice.reconstruction import Reconstruction
from bluesky_multislice.units import energy_ev_from_wavelength


@dataclass(frozen=True, eq=False)
class VolumeFile:
    """A volume read from a file.

    Attributes:
        delta: (z, y, x) δ.
        beta: (z, y, x) β.
        voxel_size_m: pitch (z, y, x), m.
    """

    delta: NDArray[np.floating]
    beta: NDArray[np.floating]
    voxel_size_m: tuple[float, float, float]


VolumeParts = Iterable[tuple[slice, NDArray[np.float32]]]
"""Parts of a volume in order: rows along y, and values (z, y, x)."""


def write_result(
    path: Path,
    result: Reconstruction,
    *,
    provenance: Mapping[str, Any] = MappingProxyType({}),
    volumes: Mapping[str, VolumeParts] = MappingProxyType({}),
) -> None:
    """Write a result file. It gets its name only after it is complete.

    Args:
        path: the file.
        result: the reconstruction.
        provenance: provenance of the volume; JSON can store it.
        volumes: ``delta`` and ``beta`` → their parts, from all ranks; a missing one is taken from ``result``, which
            contains the whole volume if there is only one rank.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        for array in result_arrays().values():
            if array.is_volume:
                _write_volume(file, array, result, volumes.get(array.name))
            else:
                file[array.name] = array.values(result)
            if array.unit:
                file[array.name].attrs["units"] = array.unit
        for table in RESULT_TABLES:
            for name, column in (table.values(result) or {}).items():
                file[f"{table.name}/{name}"] = column
        for name, values in result.solution.differences.items():
            file[f"refined/{name}"] = values.cpu().numpy()
        _write_attributes(file, result)
        file.attrs["verdict"] = result.verdict.grade
        file["provenance"] = json.dumps(dict(provenance))
    os.replace(part, path)


def _write_attributes(file: h5py.File, result: Reconstruction) -> None:
    """Write what another reconstruction needs to start from this one."""
    geometry = result.geometry
    file.attrs.update(technique=geometry.technique, regime=geometry.detector.regime)
    file["probe"].attrs["oversampling"] = result.plan.oversampling
    if result.frame_intensity is not None:
        file["probe"].attrs["frame_intensity"] = result.frame_intensity


def _write_volume(file: h5py.File, array: ResultArray, result: Reconstruction, parts: VolumeParts | None) -> None:
    grid = result.grid
    dataset = file.create_dataset(array.name, grid.shape, np.float32, chunks=(1, *grid.shape[1:]))
    for rows, values in parts or [(slice(None), array.values(result))]:
        dataset[:, rows] = values
    dataset.attrs.update(
        voxel_size_m=grid.voxel_size_m,
        center_m=grid.center_m,
        energy_ev=energy_ev_from_wavelength(result.geometry.beam.wavelength_m),
        axes=list(array.axes),
    )


def read_volume(path: Path) -> VolumeFile:
    """Read ``/delta``, ``/beta`` and ``voxel_size_m`` of a volume or result file.

    ``voxel_size_m`` may be an attribute of the file or of ``/delta``, one number or (z, y, x).

    Raises:
        ScanError: one of them is missing, or the file is not HDF5.
    """
    try:
        with h5py.File(path) as file:
            delta, beta = (np.asarray(file[name]) for name in ("delta", "beta"))
            size = file.attrs["voxel_size_m"] if "voxel_size_m" in file.attrs else file["delta"].attrs["voxel_size_m"]
    except (OSError, KeyError) as error:
        raise ScanError(
            "A volume file must contain /delta, /beta (z, y, x) and the attribute voxel_size_m.",
            got=f"{path}: {error}.",
            remedy="write them; voxel_size_m is an attribute of the file or of /delta.",
        ) from error
    pitch = np.broadcast_to(np.asarray(size, float), 3)
    return VolumeFile(delta, beta, (float(pitch[0]), float(pitch[1]), float(pitch[2])))


def read_provenance(path: Path) -> dict[str, Any]:
    """Return the provenance of a result file."""
    with h5py.File(path) as file:
        text: bytes = file["provenance"][()]  # pyright: ignore[reportIndexIssue, reportAssignmentType]
    return json.loads(text)
