"""Reconstructions in Tiled: ``reconstructions/<run uid>/<UTC time>-<recipe digest>/``.

A node is written once and never changed. The ``status`` in its metadata is ``writing`` until all data are written, then
``complete``. After an error it is ``failed``, or stays ``writing`` if the server does not answer.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
from tiled.client.container import Container
from tiled.client.utils import ClientError

from bluesky_multislice.catalog.client import refuses_key
from bluesky_multislice.catalog.result_nodes import can_read, register_array, upload_array
from bluesky_multislice.catalog.run_documents import plain_container
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.files import RESULT_PICTURES, RESULT_TABLES, result_arrays

ROOT = "reconstructions"
_REFINED = {"description": "Refined values minus those of the scan, by quantity, in SI units."}
_START_KEYS = ("scan_id", "plan_name", "sample", "sample_name", "proposal_id", "time")


@dataclass(frozen=True)
class PublishedReconstruction:
    """A reconstruction in Tiled.

    Attributes:
        path: path relative to the searched client.
        status: ``complete``, or ``writing`` or ``failed``, which are not results.
        recipe_digest: digest of its recipe.
        job_folder: folder of the job that made it; empty if there was none.
    """

    path: str
    status: str
    recipe_digest: str
    job_folder: str = ""

    @property
    def complete(self) -> bool:
        """Whether all data were written."""
        return self.status == "complete"


def publish(
    client: Container,
    result: Path,
    *,
    run_uid: str,
    recipe_digest: str,
    provenance: dict[str, Any],
    start: dict[str, Any],
) -> str:
    """Publish a result file as a new reconstruction of a run.

    Args:
        client: the Tiled container with the runs.
        result: the result file; it is registered if the server can read it, otherwise uploaded.
        run_uid: the run's unique identifier.
        recipe_digest: digest of the recipe.
        provenance: provenance of the volume; its ``figures`` (with ``model``) are also stored as metadata.
        start: the run's start document.

    Returns:
        Path of the new node relative to ``client``.

    Raises:
        CatalogError: the server refused a request, or the result file is incomplete; the node is not ``complete``.
    """
    key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{recipe_digest}"
    try:
        with h5py.File(result, "r") as file:
            metadata = _metadata(file, run_uid, recipe_digest, provenance, start)
            found = find_reconstructions(client, run_uid, recipe_digest)
            former = [each.path for each in found if each.complete]
            metadata |= {"reran": former[-1]} if former else {}
            tags = _access_tags(client, run_uid)
            folder = _container(_container(plain_container(client), ROOT, tags), run_uid, tags)
            node = plain_container(
                folder.create_container(key, metadata=metadata | {"status": "writing"}, access_tags=tags)
            )
            _fill_or_fail(node, file)
    except (OSError, KeyError, httpx.HTTPError) as error:
        raise CatalogError(
            "A reconstruction must be published completely.",
            got=f"{type(error).__name__} while {result} was published: {error}.",
            remedy="check the result file, the Tiled server and the permissions of the key; then run the flow again.",
        ) from error
    return f"{ROOT}/{run_uid}/{key}"


def find_reconstructions(
    client: Container, run_uid: str, recipe_digest: str | None = None
) -> list[PublishedReconstruction]:
    """Return the reconstructions of a run, newest last.

    Args:
        client: the Tiled container with the runs.
        run_uid: the run's unique identifier.
        recipe_digest: return only reconstructions with this recipe; None: all.
    """
    root = plain_container(client)
    try:
        folder = root[ROOT, run_uid]
    except KeyError:
        return []
    found = []
    for key, node in folder.items():
        digest = str(node.metadata.get("recipe_digest", ""))
        if recipe_digest in (None, digest):
            path = f"{ROOT}/{run_uid}/{key}"
            status, provenance = str(node.metadata.get("status", "writing")), node.metadata.get("provenance") or {}
            found.append(PublishedReconstruction(path, status, digest, str(provenance.get("job_folder", ""))))
    return sorted(found, key=lambda reconstruction: reconstruction.path)


def _fill_or_fail(node: Container, file: h5py.File) -> None:
    try:
        _fill(node, file)
        node.update_metadata({"status": "complete"}, drop_revision=True)
    except BaseException:
        # If the server does not answer, the status stays "writing", which is not a result either.
        with suppress(httpx.HTTPError, OSError):
            node.update_metadata({"status": "failed"}, drop_revision=True)
        raise


def _fill(node: Container, file: h5py.File) -> None:
    registers = True
    for name in (name for name, array in result_arrays().items() if array.required or name in file):
        metadata = {key: np.asarray(value).tolist() for key, value in file[name].attrs.items()}
        registers = registers and _register(node, file, name, metadata)
        if not registers and not can_read(upload_array(node, file, name, metadata), file, name):
            raise OSError(f"the server does not return the {name} that was written")
    for picture in RESULT_PICTURES:
        node.write_array(picture.values(file), key=picture.name, dims=picture.axes)
    for table in RESULT_TABLES:
        # A reconstruction may lack a table, but not a column of one that it has.
        if table.name in file or table.required:
            node.write_table({name: np.asarray(file[f"{table.name}/{name}"]) for name in table.columns}, key=table.name)
    group = file.get("refined")
    if isinstance(group, h5py.Group) and len(group):
        refined = plain_container(node.create_container("refined", metadata=_REFINED))
        # Not items(): while these are iterated, h5py lets no other thread use HDF5, such as a Tiled server's.
        for name in list(group):
            # Tiled stores no 0-d arrays.
            refined.write_array(np.atleast_1d(np.asarray(group[name])), key=name)


def _register(node: Container, file: h5py.File, name: str, metadata: dict[str, Any]) -> bool:
    """Register an array where it lies. Return whether the server can read it, and the key may register files."""
    try:
        array = register_array(node, file, name, metadata)
    except ClientError as error:
        if not refuses_key(error):
            raise
        return False
    if not can_read(array, file, name):
        node.delete_contents(name)
        return False
    return True


def _metadata(
    file: h5py.File, run_uid: str, recipe_digest: str, provenance: dict[str, Any], start: dict[str, Any]
) -> dict[str, Any]:
    attributes = file["delta"].attrs
    return {
        "run_uid": run_uid,
        "recipe_digest": recipe_digest,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "voxel_size_m": np.asarray(attributes["voxel_size_m"]).tolist(),
        "energy_ev": float(attributes["energy_ev"]),  # pyright: ignore[reportArgumentType]
        "technique": file.attrs.get("technique"),
        "regime": file.attrs.get("regime"),
        "model": provenance.get("figures", {}).get("model"),
        "figures": provenance.get("figures", {}),
        "run": {key: start[key] for key in _START_KEYS if key in start},
        "provenance": provenance,
    }


def _access_tags(client: Container, run_uid: str) -> list[str] | None:
    """Return the run's access tags. Tiled does not copy them to derived nodes."""
    try:
        tags = plain_container(client)[run_uid].item["attributes"].get("access_tags")
    except KeyError:
        return None
    return list(tags) if tags else None


def _container(parent: Container, key: str, tags: list[str] | None) -> Container:
    """Return a child container; create it if it is missing. Another process may create it at the same time."""
    if key not in parent:
        try:
            return plain_container(parent.create_container(key, access_tags=tags))
        except ClientError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
    return plain_container(parent[key])
