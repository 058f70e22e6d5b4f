"""Former results in the catalogue: copied into a file for a job, which uses no service."""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
from tiled.client.array import ArrayClient
from tiled.client.container import Container

from bluesky_multislice.catalog.client import connect
from bluesky_multislice.catalog.run_documents import plain_container
from bluesky_multislice.catalog.tiled_rows import fetch_rows
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.files import VIEW_COLUMNS, VIEWS, check_volumes, content_digest, read_former, write_origin

_ARRAYS = ("delta", "beta", "probe", "positions")
_SLAB_BYTES = 32 * 2**20


def fetch_result(client: Container, path: str, into: Path) -> None:
    """Copy a published result into a file from which another reconstruction starts.

    Args:
        client: the catalogue.
        path: path of the result's node in the catalogue, or its address on the same server.
        into: the file; it gets its name only after it is complete.

    Raises:
        CatalogError: there is no such node, it is not a complete result, or the server refused a request.
    """
    if "://" in path:
        # An address elsewhere would get the key of this catalogue.
        if not path.startswith(client.uri.partition("?")[0].rstrip("/") + "/"):
            raise CatalogError(
                "A former result must be in the catalogue of the scan.",
                got=f"{path}, which is not below {client.uri}.",
                remedy="give the path of its node in the catalogue, such as reconstructions/RUN_UID/KEY.",
            )
        path = path.removeprefix(client.uri.partition("?")[0].rstrip("/"))
    parts = [part for part in path.split("/") if part]
    try:
        node = plain_container(client)[tuple(parts)] if parts else client
    except (KeyError, httpx.HTTPError) as error:
        raise CatalogError(
            "start_from must name a result file, or a result in the Tiled catalogue.",
            got=f"{path}, which is neither a file nor a node of {client.uri}.",
            remedy="correct it; the flow's message and `run_uid` in the metadata give the paths of results.",
        ) from error
    _copy(node, path.strip("/"), into)


def fetch_result_at(address: str, into: Path, *, catalogue: str | None) -> None:
    """Copy a published result into a file, from an address or from a path in a catalogue.

    Args:
        address: address of the result's node, or its path in the catalogue.
        into: the file.
        catalogue: address of the catalogue; not needed for an address.

    Raises:
        CatalogError: as in ``fetch_result``, or the server does not answer.
    """
    whole = "://" in address
    client = connect(address if whole or catalogue is None else catalogue)
    with closing(client.context):
        if whole:
            _copy(client, address.partition("?")[0], into)
        else:
            fetch_result(client, address, into)


def _copy(node: Any, name: str, into: Path) -> None:
    """Copy the arrays of a node."""
    metadata: Mapping[str, Any] = node.metadata
    if not isinstance(node, Container) or metadata.get("status") != "complete" or "recipe_digest" not in metadata:
        raise CatalogError(
            "start_from must name a complete result.",
            got=f"{name}: {type(node).__name__} with status {metadata.get('status')}.",
            remedy="name a node reconstructions/RUN_UID/KEY whose status is complete.",
        )
    node, part = plain_container(node), into.with_name(into.name + ".part")
    try:
        with h5py.File(part, "w") as file:
            _copy_arrays(node, file)
            file.attrs.update({key: metadata[key] for key in ("technique", "regime") if metadata.get(key)})
            file["provenance"] = json.dumps(metadata.get("provenance") or {})
            origin = {
                "tiled": node.uri.partition("?")[0],
                **{key: metadata[key] for key in ("run_uid", "recipe_digest", "created") if key in metadata},
            }
            write_origin(file, name=name, digest=content_digest(file), origin=origin)
    except (KeyError, httpx.HTTPError) as error:
        raise CatalogError(
            f"A result in the catalogue must contain {', '.join(_ARRAYS)}, and the server must return them.",
            got=f"{type(error).__name__} for {name}: {error}.",
            remedy="name another result, or check the Tiled server.",
        ) from error
    check_volumes(read_former(part))
    os.replace(part, into)


def _copy_arrays(node: Container, file: h5py.File) -> None:
    """Copy the arrays, the refined quantities and the table of views."""
    for name in _ARRAYS:
        array: ArrayClient = node[name]
        dataset = file.create_dataset(name, array.shape, array.dtype)
        dataset.attrs.update(dict(array.metadata))
        rows = max(1, _SLAB_BYTES * array.shape[0] // max(1, dataset.nbytes))
        for start in range(0, array.shape[0], rows):
            stop = min(start + rows, array.shape[0])
            dataset[start:stop] = fetch_rows(array, start, stop, array.shape[1:])
    if "refined" in node:
        for name, values in node["refined"].items():
            file[f"refined/{name}"] = np.asarray(values.read())
    if VIEWS in node:
        table = node[VIEWS].read()
        for name in VIEW_COLUMNS:
            file[f"{VIEWS}/{name}"] = np.asarray(table[name], float)
