"""A former result as the start of another reconstruction: a result file, or its stand-in in a job folder.

The stand-in is a result file whose volumes are links to the result file, or a copy of a result in the catalogue. Its
attribute ``former`` (JSON) tells the origin and the digest of the content.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files.file_records import file_record
from bluesky_multislice.files.result_arrays import VIEW_COLUMNS, VIEWS
from bluesky_multislice.measurement import FormerResult, VolumeGrid
from bluesky_multislice.units import wavelength_m_from_energy

VOLUMES: tuple[Literal["delta", "beta"], ...] = ("delta", "beta")
_SMALL = ("probe", "positions", "refined", VIEWS, "provenance")
_FORMER = "former"
_MOST_CHECKED_BYTES = 4 * 2**30


@dataclass(frozen=True)
class StoredVolumes:
    """The volumes of a result file, opened for every pass over them.

    Attributes:
        path: the file.
    """

    path: Path

    def planes(self, name: Literal["delta", "beta"], rows: slice) -> Iterator[NDArray[np.float32]]:
        """Yield these rows along y of every plane (y, x), in order along z."""
        with h5py.File(self.path) as file:
            volume = _dataset(file, name)
            for plane in range(volume.shape[0]):
                yield np.asarray(volume[plane, rows], np.float32)


def read_former(path: Path) -> FormerResult:
    """Read a former result from which a reconstruction starts. Its volumes are read on demand.

    Args:
        path: a result file, or its stand-in in a job folder.

    Raises:
        ScanError: the file is not a result, lacks an array, has values that are not finite, or has changed since it was
            staged.
    """
    try:
        with h5py.File(path) as file:
            return _former(file, path)
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise _not_a_result(f"{path}: {error}.") from error


def link_result(path: Path, into: Path) -> None:
    """Write the stand-in of a result file, which refers to its volumes by absolute path.

    Args:
        path: the result file; it must stay as it is until the job has ended.
        into: the stand-in.

    Raises:
        ScanError: the file is not a result, or cannot be used.
    """
    path = path.resolve()
    former = read_former(path)
    check_volumes(former)
    try:
        with h5py.File(path) as source, _new_file(into) as file:
            file.attrs.update(source.attrs)
            for name in _SMALL:
                if name in source:
                    source.copy(name, file)
            for name in VOLUMES:
                file[name] = h5py.ExternalLink(path, f"/{name}")
            write_origin(file, name=str(path), digest=former.digest, origin=former.origin)
    except KeyError as error:
        raise _not_a_result(f"{path}: {error}.") from error
    os.replace(into.with_name(into.name + ".part"), into)


def check_volumes(former: FormerResult) -> None:
    """Check that δ and β are finite, if they have at most 4 GiB; ranks check the rows that they read.

    Raises:
        ScanError: a value is not finite.
    """
    height = former.grid.shape[1]
    if 8 * math.prod(former.grid.shape) > _MOST_CHECKED_BYTES:
        return
    for name in VOLUMES:
        for number, plane in enumerate(former.volumes.planes(name, slice(0, height))):
            if bad := int((~np.isfinite(plane)).sum()):
                raise _not_a_result(f"{bad} NaN or infinite values in plane {number} of {name} in {former.name}.")


def write_origin(file: h5py.File, *, name: str, digest: str, origin: Mapping[str, Any]) -> None:
    """Write the origin of a stand-in.

    Args:
        file: the stand-in.
        name: path of the result.
        digest: digest of its content, from ``content_digest``.
        origin: record for the provenance.
    """
    file.attrs[_FORMER] = json.dumps({"name": name, "digest": digest, "origin": dict(origin)})


def former_record(former: FormerResult | None) -> dict[str, Any] | None:
    """Return the provenance of a former result; None if there is none."""
    return None if former is None else {"name": former.name, "content": former.digest, **former.origin}


def content_digest(file: h5py.File) -> str:
    """Return a digest of a result: its small arrays, and the first, the middle and the last plane of its volumes."""
    digest = hashlib.sha256()

    def add(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset):
            digest.update(f"{name} {node.shape} {node.dtype.str}".encode())
            digest.update(np.ascontiguousarray(node[()]).tobytes())

    for name in ("refined", VIEWS):
        group = file.get(name)
        if isinstance(group, h5py.Group):
            group.visititems(add)
    for name in ("probe", "positions"):
        add(name, _dataset(file, name))
    for name in VOLUMES:
        volume = _dataset(file, name)
        digest.update(f"{name} {volume.shape} {np.asarray(volume.attrs['voxel_size_m']).tolist()}".encode())
        for plane in sorted({0, volume.shape[0] // 2, volume.shape[0] - 1}):
            digest.update(np.ascontiguousarray(volume[plane]).tobytes())
    return digest.hexdigest()


def _former(file: h5py.File, path: Path) -> FormerResult:
    grid = _grid(file)
    digest = content_digest(file)
    staged = json.loads(str(file.attrs[_FORMER])) if _FORMER in file.attrs else None
    if staged is not None and staged["digest"] != digest:
        raise ScanError(
            "A former result must stay as it is until the job has ended.",
            got=f"{staged['name']} has changed since the job was staged.",
            remedy="start the reconstruction again, from a result that is not overwritten.",
        )
    probe = _finite(file, "probe", 3).astype(np.complex64)
    position_m = _finite(file, "positions", 2).astype(float)
    if not probe.any() or position_m.shape[1] != 2:
        raise ValueError(f"positions of shape {position_m.shape}, and a probe of {np.abs(probe).max()} at most")
    provenance = json.loads(_dataset(file, "provenance")[()]) if "provenance" in file else None
    attributes = _dataset(file, "probe").attrs
    intensity = attributes.get("frame_intensity")
    return FormerResult(
        name=str(path) if staged is None else staged["name"],
        digest=digest,
        technique=str(file.attrs.get("technique", "")),
        regime=str(file.attrs.get("regime", "")),
        wavelength_m=_wavelength_m(file),
        grid=grid,
        volumes=StoredVolumes(path),
        probe=probe,
        position_m=position_m,
        oversampling=int(attributes.get("oversampling", 1)),
        frame_intensity=None if intensity is None else float(intensity),
        joint_illumination=bool(_of(provenance, "plan", "model", "joint_illumination")),
        views=_views(file, len(position_m)),
        refined=_refined(file),
        frames=_of(provenance, "recipe", "frames") or {},
        origin=file_record(path) if staged is None else staged["origin"],
    )


def _wavelength_m(file: h5py.File) -> float:
    energy_ev = float(np.asarray(_dataset(file, "delta").attrs["energy_ev"], float).item())
    if not (math.isfinite(energy_ev) and energy_ev > 0):
        raise ValueError(f"an energy of {energy_ev} eV")
    return wavelength_m_from_energy(energy_ev)


def _grid(file: h5py.File) -> VolumeGrid:
    """Return the grid of the volumes."""
    volumes = [_dataset(file, name) for name in VOLUMES]
    shape = volumes[0].shape
    real = all(volume.dtype.kind in "fiu" for volume in volumes)
    if len(shape) != 3 or volumes[1].shape != shape or 0 in shape or not real:
        kinds = " and ".join(f"{volume.name} of shape {volume.shape}, {volume.dtype}" for volume in volumes)
        raise ValueError(kinds)
    attributes = volumes[0].attrs
    voxel, center = (
        np.asarray(attributes[name] if name == "voxel_size_m" else attributes.get(name, (0.0, 0.0, 0.0)), float)
        for name in ("voxel_size_m", "center_m")
    )
    if voxel.shape != (3,) or not (np.isfinite(voxel).all() and (voxel > 0).all() and np.isfinite(center).all()):
        raise ValueError(f"voxels of {voxel.tolist()} m about {center.tolist()} m")
    (depth, dy, dx), (z, y, x) = voxel.tolist(), center.tolist()
    return VolumeGrid((int(shape[0]), int(shape[1]), int(shape[2])), (depth, dy, dx), (z, y, x))


def _views(file: h5py.File, views: int) -> NDArray[np.float64] | None:
    if VIEWS not in file:
        return None
    columns = [_finite(file, f"{VIEWS}/{name}", 1) for name in VIEW_COLUMNS]
    found = np.stack(columns, 1).astype(float)
    if len(found) != views:
        raise ValueError(f"{len(found)} views for {views} positions")
    return found


def _refined(file: h5py.File) -> dict[str, NDArray]:
    if "refined" not in file:
        return {}
    group = file["refined"]
    if not isinstance(group, h5py.Group):
        raise TypeError("refined is not a group")
    return {name: _finite(file, f"refined/{name}") for name in map(str, group)}


def _of(provenance: Any, *keys: str) -> Any:
    """Return a value of the provenance; None if it is not there."""
    for key in keys:
        provenance = (provenance or {}).get(key)
    return provenance


def _finite(file: h5py.File, name: str, axes: int | None = None) -> NDArray:
    """Return the values of an array, all finite."""
    values = np.asarray(_dataset(file, name)[()])
    if axes is not None and (values.ndim != axes or 0 in values.shape):
        raise ValueError(f"{name} of shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} NaN or infinite values in {name}")
    return values


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    found = file.get(name)
    link = file.get(name, getlink=True)
    if found is None and isinstance(link, h5py.ExternalLink):
        raise KeyError(f"{link.filename}, which the job refers to, cannot be read")
    if not isinstance(found, h5py.Dataset):
        raise KeyError(f"no array {name}")
    return found


def _new_file(into: Path) -> h5py.File:
    return h5py.File(into.with_name(into.name + ".part"), "w")


def _not_a_result(got: str) -> ScanError:
    return ScanError(
        "A former result must be a complete result file with finite values: /delta and /beta (z, y, x) with "
        "voxel_size_m and energy_ev, /probe (mode, y, x) and /positions (view, axis).",
        got=got,
        remedy="name a file that `multislice reconstruct` or a job wrote, or leave start_from out.",
    )
