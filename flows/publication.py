"""Publishes the result of a job as a node in Tiled, once per job folder."""

from typing import Any

from tiled.client.container import Container

from bluesky_multislice import catalog
from bluesky_multislice.files import read_provenance
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.recipe import Recipe
from flows.folder_writes import record_outcome


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
