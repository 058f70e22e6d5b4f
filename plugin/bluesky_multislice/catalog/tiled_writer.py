"""Reconstructions in Tiled: ``reconstructions/<run uid>/<UTC time>-<recipe digest>/``.

A node is written once and never changed. Its metadata's ``status`` is ``writing`` until everything stands there, then
``complete``; a reader that sees ``complete`` sees all of it. Whatever fails in between leaves ``failed``, or
``writing`` where the server is gone.
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

from bluesky_multislice.catalog.result_nodes import DIMENSIONS, can_read, register_array, upload_array
from bluesky_multislice.catalog.run_documents import plain
from bluesky_multislice.errors import CatalogError
from bluesky_multislice.files import preview

ROOT = "reconstructions"
HISTORY = ("epoch", "loss", "held_back_loss", "seconds", "coarseness")
SHELL_CORRELATION = ("frequency_per_m", "correlation", "half_bit")
_START_KEYS = ("scan_id", "plan_name", "sample", "sample_name", "proposal_id", "time")


@dataclass(frozen=True)
class PublishedReconstruction:
    """A reconstruction in Tiled.

    Attributes:
        path: its path below the client that was searched.
        status: ``complete``; ``writing`` and ``failed`` are no results.
        recipe_digest: digest of its recipe.
        job_folder: folder of the job that made it; empty where none did.
    """

    path: str
    status: str
    recipe_digest: str
    job_folder: str = ""

    @property
    def complete(self) -> bool:
        """Whether all of it is there."""
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
        client: the Tiled container that holds the runs.
        result: the result file; it is registered where it lies if the server can read it there, else uploaded.
        run_uid: the run's unique identifier.
        recipe_digest: digest of the recipe.
        provenance: what made the volume; its ``figures`` (with ``model``) are shown beside it.
        start: the run's start document.

    Returns:
        Path of the new node below ``client``.

    Raises:
        CatalogError: the server refused, or the result file is incomplete; nothing looks complete then.
    """
    key = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{recipe_digest}"
    try:
        with h5py.File(result, "r") as file:
            metadata = _metadata(file, run_uid, recipe_digest, provenance, start)
            found = find_reconstructions(client, run_uid, recipe_digest)
            former = [each.path for each in found if each.complete]
            metadata |= {"reran": former[-1]} if former else {}
            tags = _access_tags(client, run_uid)
            home = _container(_container(plain(client), ROOT, tags), run_uid, tags)
            node = plain(home.create_container(key, metadata=metadata | {"status": "writing"}, access_tags=tags))
            _fill_or_fail(node, file)
    except (OSError, KeyError, httpx.HTTPError) as error:
        raise CatalogError(
            "A reconstruction must be published whole.",
            got=f"{type(error).__name__} while {result} was published: {error}.",
            remedy="check the result file, the Tiled server and the key's right to write; then run the flow again.",
        ) from error
    return f"{ROOT}/{run_uid}/{key}"


def find_reconstructions(
    client: Container, run_uid: str, recipe_digest: str | None = None
) -> list[PublishedReconstruction]:
    """Return the reconstructions of a run, the newest last.

    Args:
        client: the Tiled container that holds the runs.
        run_uid: the run's unique identifier.
        recipe_digest: only those of this recipe; None is all.
    """
    root = plain(client)
    try:
        home = root[ROOT, run_uid]
    except KeyError:
        return []
    found = []
    for key, node in home.items():
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
        # Where the server is gone the node stays at "writing", which is no result either; the first error counts.
        with suppress(httpx.HTTPError, OSError):
            node.update_metadata({"status": "failed"}, drop_revision=True)
        raise


def _fill(node: Container, file: h5py.File) -> None:
    write = register_array
    for name in DIMENSIONS:
        metadata = {key: np.asarray(value).tolist() for key, value in file[name].attrs.items()}
        array = write(node, file, name, metadata)
        if write is register_array and not can_read(array, file, name):
            node.delete_contents(name)
            write = upload_array
            array = write(node, file, name, metadata)
        if not can_read(array, file, name):
            raise OSError(f"the server does not return the {name} that it was given")
    # The web UI shows no complex array: δ's slices and the probe's amplitude are there to be seen.
    node.write_array(preview(file["delta"]), key="preview", dims=("row", "column"))  # pyright: ignore[reportArgumentType]
    node.write_array(np.abs(np.asarray(file["probe"])), key="probe_amplitude", dims=DIMENSIONS["probe"])
    node.write_table({name: np.asarray(file[f"history/{name}"]) for name in HISTORY}, key="history")
    if "shell_correlation" in file:
        curves = {name: np.asarray(file[f"shell_correlation/{name}"]) for name in SHELL_CORRELATION}
        node.write_table(curves, key="shell_correlation")


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
        "model": provenance.get("figures", {}).get("model"),
        "figures": provenance.get("figures", {}),
        "run": {key: start[key] for key in _START_KEYS if key in start},
        "provenance": provenance,
    }


def _access_tags(client: Container, run_uid: str) -> list[str] | None:
    """Return the run's access tags: Tiled does not hand them on to what is derived from it."""
    try:
        tags = plain(client)[run_uid].item["attributes"].get("access_tags")
    except KeyError:
        return None
    return list(tags) if tags else None


def _container(parent: Container, key: str, tags: list[str] | None) -> Container:
    """Return a child container, made where it is missing; another process may make it at the same moment."""
    if key not in parent:
        try:
            return plain(parent.create_container(key, access_tags=tags))
        except ClientError as error:
            if error.response.status_code != httpx.codes.CONFLICT:
                raise
    return plain(parent[key])
