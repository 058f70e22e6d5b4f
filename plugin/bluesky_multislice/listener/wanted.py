"""Selects the runs that request an automatic reconstruction, and reads their recipes.

A run requests it in its start document: ``technique: ptychography | holography`` and
``multislice: {auto: true, recipe: {…}}``. The exit status of the run is not checked here. The flow of an aborted run
fails with an error, which is then visible in Prefect.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiled.client.container import Container
from tiled.queries import In, Key, KeyPresent

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.recipe import Recipe, make_recipe, technique_names


@dataclass(frozen=True)
class RequestedRun:
    """A finished run that requests a reconstruction.

    Attributes:
        uid: the run.
        recipe: its recipe, or the error if the recipe is invalid.
        digest: short hash of the recipe.
    """

    uid: str
    recipe: Recipe | RecipeError
    digest: str

    @property
    def key(self) -> str:
        """Idempotency key of its flow run."""
        return automatic_key(self.uid, self.digest)


def automatic_key(run_uid: str, digest: str) -> str:
    """Return the idempotency key of the listener's flow run for a run and a recipe."""
    return f"{run_uid}-{digest}"


def requested_run(uid: str, metadata: Mapping[str, Any]) -> RequestedRun | None:
    """Return the request of a run; None if the run has not ended or does not request a reconstruction.

    Args:
        uid: the run.
        metadata: its ``start`` and ``stop`` documents.
    """
    start = metadata.get("start") or {}
    options = start.get("multislice")
    technique = start.get("technique")
    if not isinstance(technique, str) or technique not in technique_names() or not metadata.get("stop"):
        return None
    if not isinstance(options, Mapping) or options.get("auto") is not True:
        return None
    values = options.get("recipe") or {}
    try:
        recipe = _read_recipe(values, uid)
    except RecipeError as error:
        text = json.dumps(values, sort_keys=True, default=str)
        return RequestedRun(uid, error, f"invalid-{hashlib.sha256(text.encode()).hexdigest()[:10]}")
    return RequestedRun(uid, recipe, recipe.digest())


def _read_recipe(values: Any, uid: str) -> Recipe:
    origin = f"start.multislice.recipe of run {uid}"
    if not isinstance(values, Mapping):
        raise RecipeError(
            "A recipe must be a mapping of fields to values.",
            got=f"{values!r}, in {origin}.",
            remedy=f"correct it; the fields are {', '.join(Recipe.model_fields)}.",
        )
    return make_recipe(values, origin=origin)


def finished_runs(client: Container) -> Iterator[str]:
    """Yield the uids of all finished runs that request a reconstruction. The search runs on the server."""
    found = client.search(KeyPresent("stop.exit_status"))
    found = found.search(Key("start.multislice.auto") == True)  # noqa: E712  (a query, not a comparison)
    yield from found.search(In("start.technique", technique_names()))
