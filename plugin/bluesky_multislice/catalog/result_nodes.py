"""Arrays of a result file as nodes in Tiled: registered if the server can read the file, otherwise uploaded."""

from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
from tiled.client.array import ArrayClient
from tiled.client.container import Container
from tiled.structures.array import ArrayStructure, BuiltinDtype
from tiled.structures.core import StructureFamily
from tiled.structures.data_source import Asset, DataSource, Management

from bluesky_multislice.catalog.tiled_rows import fetch_once
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.files import result_arrays

_SLAB_BYTES = 32 * 2**20


def register_array(parent: Container, file: h5py.File, name: str, metadata: dict[str, Any]) -> ArrayClient:
    """Register one array of a result file without copying it.

    Args:
        parent: the container of the result.
        file: the open result file.
        name: name of the array, in the file and in Tiled.
        metadata: metadata of the new node.
    """
    dataset = _dataset(file, name)
    source = DataSource(
        structure_family=StructureFamily.array,
        structure=_structure(dataset, name, dataset.chunks or dataset.shape),
        mimetype="application/x-hdf5",
        parameters={"dataset": f"/{name}"},
        assets=[
            Asset(data_uri=Path(file.filename).resolve().as_uri(), is_directory=False, parameter="data_uris", num=0)
        ],
        management=Management.external,
    )
    return parent.new(StructureFamily.array, [source], key=name, metadata=metadata)


def upload_array(parent: Container, file: h5py.File, name: str, metadata: dict[str, Any]) -> ArrayClient:
    """Copy one array of a result file to the server in slabs along its first axis."""
    dataset = _dataset(file, name)
    row_bytes = max(1, dataset.nbytes // max(1, dataset.shape[0]))
    rows = int(min(dataset.shape[0], max(1, _SLAB_BYTES // row_bytes)))
    structure = _structure(dataset, name, (rows, *dataset.shape[1:]))
    source = DataSource(structure_family=StructureFamily.array, structure=structure)
    node = parent.new(StructureFamily.array, [source], key=name, metadata=metadata)
    for block, start in enumerate(range(0, dataset.shape[0], rows)):
        node.write_block(dataset[start : start + rows], (block, *(0 for _ in dataset.shape[1:])))
    return node


def can_read(node: ArrayClient, file: h5py.File, name: str) -> bool:
    """Return whether the server can read a registered array: compares its first row with the file's."""
    try:
        content = fetch_once(node, 0, 1).content
    except (httpx.HTTPError, KeyError):
        return False
    return content == np.ascontiguousarray(_dataset(file, name)[:1]).tobytes()


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise CatalogError(
            f"A result file must contain {', '.join(result_arrays())}.",
            got=f"no /{name} in {file.filename}.",
            remedy="publish the volume.h5 that the job wrote.",
        )
    return dataset


def _structure(dataset: h5py.Dataset, name: str, chunk: tuple[int, ...]) -> ArrayStructure:
    chunks = tuple(
        tuple(min(length, size - start) for start in range(0, size, length))
        for size, length in zip(dataset.shape, chunk, strict=True)
    )
    return ArrayStructure(
        data_type=BuiltinDtype.from_numpy_dtype(dataset.dtype),
        shape=dataset.shape,
        chunks=chunks,
        dims=result_arrays()[name].axes,
    )
