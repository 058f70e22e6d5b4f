"""The result file: δ and β with their attributes, probe, positions, history and provenance.

======================  ============================================================================================
``/delta /beta``        float32 (z, y, x); attributes ``voxel_size_m`` (z, y, x), ``center_m`` (z, y, x) relative to
                        the rotation axis, ``energy_ev``, ``axes``
``/probe``              complex64 (mode, y, x) at z = 0, in the square root of the frames' units
``/positions``          float64 (view, 2), (y, x), m, after refinement
``/refined``            group of the refined quantities by recipe name: differences from the scan's values, SI units;
                        ``probe_variations`` complex64 (variation, y, x), ``variation_of_view`` (view, variation)
``/history``            group of 1-D columns: epoch, loss, held_back_loss, seconds, coarseness
``/shell_correlation``  optional group of 1-D columns: frequency_per_m, correlation, half_bit
``/provenance``         JSON
======================  ============================================================================================
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.measurement import VolumeGrid


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


def write_result(
    path: Path,
    *,
    delta: Iterable[tuple[slice, NDArray[np.float32]]],
    beta: Iterable[tuple[slice, NDArray[np.float32]]],
    probe: NDArray[np.complex64],
    positions: NDArray[np.float64],
    history: Mapping[str, NDArray],
    grid: VolumeGrid,
    energy_ev: float,
    provenance: Mapping[str, Any],
    refined: Mapping[str, NDArray] | None = None,
    shell_correlation: Mapping[str, NDArray] | None = None,
) -> None:
    """Write a result file. It gets its name only after it is complete.

    Args:
        path: the file.
        delta: slabs of δ in order, each with its rows along y: (rows, values (z, y, x)).
        beta: slabs of β, in the same form.
        probe: (mode, y, x).
        positions: (view, 2), (y, x), m.
        history: column → (epoch,).
        grid: the volume's grid.
        energy_ev: photon energy, eV.
        provenance: provenance of the volume.
        refined: quantity → difference from the scan's value, SI units.
        shell_correlation: column → (shell,).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with h5py.File(part, "w") as file:
        for name, volume in (("delta", delta), ("beta", beta)):
            dataset = file.create_dataset(name, grid.shape, np.float32, chunks=(1, *grid.shape[1:]))
            for rows, values in volume:
                dataset[:, rows] = values
            dataset.attrs.update(
                voxel_size_m=grid.voxel_size_m, center_m=grid.center_m, energy_ev=energy_ev, axes=["z", "y", "x"]
            )
        file["probe"] = probe
        file["positions"] = positions
        file["positions"].attrs["units"] = "m"
        for name, column in history.items():
            file[f"history/{name}"] = column
        for name, values in (refined or {}).items():
            file[f"refined/{name}"] = values
        for name, column in (shell_correlation or {}).items():
            file[f"shell_correlation/{name}"] = column
        file["provenance"] = json.dumps(provenance)
    os.replace(part, path)


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
