"""Which runs are reconstructed by themselves, and with which recipe.

A run asks for it in its start document: ``technique: ptychography | holography`` and
``multislice: {auto: true, recipe: {…}}``. Whether it ended well is not asked here: the flow of an aborted run fails
with the error that says so, where whoever waits for the volume looks for it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiled.client.container import Container
from tiled.queries import In, Key, KeyPresent

from bluesky_multislice.errors import RecipeError
from bluesky_multislice.models import techniques
from bluesky_multislice.recipe import Recipe, make_recipe


@dataclass(frozen=True)
class WantedRun:
    """A run that has ended and asks to be reconstructed.

    Attributes:
        uid: the run.
        recipe: its recipe, or the error that says what is wrong with it.
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
    """Return the idempotency key of the flow run that the listener starts for a run and a recipe."""
    return f"{run_uid}-{digest}"


def wanted_run(uid: str, metadata: Mapping[str, Any]) -> WantedRun | None:
    """Return what a run asks for; None where it has not ended or does not ask.

    Args:
        uid: the run.
        metadata: its ``start`` and ``stop`` documents.
    """
    start = metadata.get("start") or {}
    options = start.get("multislice")
    if start.get("technique") not in techniques() or not metadata.get("stop"):
        return None
    if not isinstance(options, Mapping) or options.get("auto") is not True:
        return None
    values = options.get("recipe") or {}
    try:
        recipe = _checked(values, uid)
    except RecipeError as error:
        text = json.dumps(values, sort_keys=True, default=str)
        return WantedRun(uid, error, f"invalid-{hashlib.sha256(text.encode()).hexdigest()[:10]}")
    return WantedRun(uid, recipe, recipe.digest())


def _checked(values: Any, uid: str) -> Recipe:
    origin = f"start.multislice.recipe of run {uid}"
    if not isinstance(values, Mapping):
        raise RecipeError(
            "A recipe is a mapping of fields to values.",
            got=f"{values!r}, in {origin}.",
            remedy=f"correct it; the fields are {', '.join(Recipe.model_fields)}.",
        )
    return make_recipe(values, origin=origin)


def finished_runs(client: Container) -> Iterator[str]:
    """Yield the uids of all runs that have ended and ask to be reconstructed; the search runs on the server."""
    found = client.search(KeyPresent("stop.exit_status"))
    found = found.search(Key("start.multislice.auto") == True)  # noqa: E712  (a query, not a comparison)
    yield from found.search(In("start.technique", list(techniques())))
