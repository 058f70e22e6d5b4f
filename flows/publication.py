"""Publishes the result of a job as a node in Tiled, once per job folder: by its flow, the reaper or a person."""

import time
from contextlib import closing
from typing import Any

from tiled.client.container import Container

from bluesky_multislice import catalog
from bluesky_multislice.errors import JobError
from bluesky_multislice.files import read_provenance
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.listener import tiled_key
from bluesky_multislice.recipe import Recipe, ServiceSettings
from flows.folder_writes import record_outcome
from flows.heartbeat import has_heartbeat


def publish_by_hand(settings: ServiceSettings, folder: JobFolder) -> str:
    """Publish a result that its flow has left, for a person; see ``publish_left_result``."""
    if has_heartbeat(folder, now=time.time()):
        raise JobError(
            "A result can be published by hand only after its flow has ended.",
            got=f"a flow that follows {folder.path}.",
            remedy="let the flow publish it, or cancel the flow run and wait for a minute.",
        )
    made_by = {"flow_run": {"id": folder.path.name, "published_by": "multislice publish"}}
    return publish_left_result(settings, folder, made_by=made_by)


def publish_left_result(settings: ServiceSettings, folder: JobFolder, *, made_by: dict[str, Any]) -> str:
    """Publish a result that its flow has left in a job folder; see ``publish_once``.

    Args:
        settings: addresses and paths of the services.
        folder: the job folder.
        made_by: provenance that says who published it.

    Returns:
        Path of the node.

    Raises:
        JobError: the folder has no result of a run in Tiled, a flow follows it, or its files cannot be read.
        CatalogError: the server refused the request or does not answer, or the result file is incomplete.
    """
    run_uid = folder.read_job()["origin"].get("run_uid")
    if run_uid is None or not folder.result.exists():
        problem = "the scan of a file" if run_uid is None else f"no {folder.result.name}"
        raise JobError(
            "Only the result of a run in Tiled can be published.",
            got=f"{problem} in {folder.path}.",
            remedy="wait for the end of the job, or run its flow again; for a file, use `multislice ingest` first.",
        )
    client = catalog.connect(settings.tiled_uri, tiled_key(settings))
    with closing(client.context):
        start = catalog.find_run(client, run_uid).start
        return publish_once(client, folder, run_uid=run_uid, start=start, made_by=made_by)


def publish_once(
    client: Container, folder: JobFolder, *, run_uid: str, start: dict[str, Any], made_by: dict[str, Any]
) -> str:
    """Publish the result in a job folder, unless an earlier attempt did, and record it as published.

    Args:
        client: the Tiled container that holds the runs.
        folder: the job folder.
        run_uid: the run's unique identifier.
        start: the run's start document.
        made_by: provenance that the owner of the job adds.

    Returns:
        Path of the node.

    Raises:
        CatalogError: the server refused the request, or the result file is incomplete.
    """
    recipe = Recipe.model_validate(folder.read_job()["recipe"])
    found = catalog.find_reconstructions(client, run_uid, recipe.digest())
    path = next((each.path for each in found if each.complete and each.job_folder == str(folder.path)), None)
    if path is None:
        provenance = read_provenance(folder.result)
        path = catalog.publish(
            client,
            folder.result,
            run_uid=run_uid,
            recipe_digest=recipe.digest(),
            provenance=provenance | {"model": recipe.propagation, "job_folder": str(folder.path)} | made_by,
            start=start,
        )
    record_outcome(folder, lambda record: record.publish(path))
    return path
