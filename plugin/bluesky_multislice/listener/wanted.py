"""Selects the runs that request an automatic reconstruction, and reads their recipes.

A run requests it in its start document: ``technique: ptychography | holography`` and
``multislice: {auto: true, recipe: {…}}``. A request that is wrong becomes a failed flow run, which shows the error. The
exit status of the run is not checked here. The flow of an aborted run fails with an error, which is then visible in
Prefect.
"""

import hashlib
import json
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tiled.client.container import Container
from tiled.queries import Key, KeyPresent

from bluesky_multislice.errors import MultisliceError, RecipeError, ScanError
from bluesky_multislice.recipe import Recipe, make_recipe, technique_names


@dataclass(frozen=True)
class RequestedRun:
    """A finished run that requests a reconstruction.

    Attributes:
        uid: the run.
        recipe: its recipe, or the error if the request is invalid.
        digest: short hash of the recipe.
    """

    uid: str
    recipe: Recipe | MultisliceError
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
    if not isinstance(options, Mapping) or options.get("auto") is not True or not metadata.get("stop"):
        return None
    technique, values = start.get("technique"), options.get("recipe")
    if technique is None or (isinstance(technique, str) and technique not in technique_names()):
        return None
    try:
        _check_technique(technique, uid)
        recipe = _read_recipe({} if values is None else values, uid)
    except MultisliceError as error:
        text = json.dumps([technique, values], sort_keys=True, default=str)
        return RequestedRun(uid, error, f"invalid-{hashlib.sha256(text.encode()).hexdigest()[:10]}")
    return RequestedRun(uid, recipe, recipe.digest())


def _check_technique(technique: Any, uid: str) -> None:
    if not isinstance(technique, str):
        raise ScanError(
            "A run that requests a reconstruction must name a single technique.",
            got=f"{reprlib.repr(technique)}, in start.technique of run {uid}.",
            remedy=f"write one of {', '.join(technique_names())} into the start document.",
        )


def _read_recipe(values: Any, uid: str) -> Recipe:
    origin = f"start.multislice.recipe of run {uid}"
    if not isinstance(values, Mapping):
        raise RecipeError(
            "A recipe must be a mapping of fields to values.",
            got=f"{reprlib.repr(values)}, in {origin}.",
            remedy=f"correct it; the fields are {', '.join(Recipe.model_fields)}.",
        )
    return make_recipe(values, origin=origin)


def finished_runs(client: Container, *, metadata: bool = False) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield the uids of all finished runs with ``auto: true``, of any technique. The search runs on the server.

    Args:
        client: the catalogue.
        metadata: whether to yield the runs' metadata, too; otherwise None.
    """
    found = client.search(KeyPresent("stop.exit_status"))
    found = found.search(Key("start.multislice.auto") == True)  # noqa: E712  (a query, not a comparison)
    if metadata:
        yield from ((uid, run.metadata) for uid, run in found.items())
    else:
        yield from ((uid, None) for uid in found)
