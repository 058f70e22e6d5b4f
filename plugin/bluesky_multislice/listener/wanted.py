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
from tiled.queries import Comparison, Key, KeyPresent

from bluesky_multislice.errors import MultisliceError, RecipeError, ScanError
from bluesky_multislice.recipe import Recipe, make_recipe, technique_names


@dataclass(frozen=True)
class RequestedRun:
    """A finished run that requests a reconstruction.

    Attributes:
        uid: the run.
        recipe: its recipe, or the error if the request is invalid.
        digest: short hash of the recipe.
        request: short hash of technique and recipe as the start document writes them. Unlike the digest, it does not
            depend on the release of this package.
        ended_s: time of the stop document, s since 1970; None if it has none.
    """

    uid: str
    recipe: Recipe | MultisliceError
    digest: str
    request: str = ""
    ended_s: float | None = None

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
    values = {} if values is None else values
    request = _hash([technique, values])
    ended_s = _time_of(metadata["stop"])
    try:
        _check_technique(technique, uid)
        recipe = _read_recipe(values, uid)
    except MultisliceError as error:
        return RequestedRun(uid, error, f"invalid-{request}", request, ended_s)
    return RequestedRun(uid, recipe, recipe.digest(), request, ended_s)


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:10]


def _time_of(document: Any) -> float | None:
    found = document.get("time") if isinstance(document, Mapping) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


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


@dataclass(frozen=True)
class Period:
    """A period of time, s since 1970: from ``since_s`` on, before ``before_s``; None: no limit."""

    since_s: float | None = None
    before_s: float | None = None

    def select(self, runs: Container, key: str) -> Container:
        """Return the runs whose value at ``key`` is in the period."""
        if self.since_s is not None:
            runs = runs.search(Comparison("ge", key, float(self.since_s)))
        if self.before_s is not None:
            runs = runs.search(Comparison("lt", key, float(self.before_s)))
        return runs


_ALWAYS = Period()


def finished_runs(
    client: Container, *, ended: Period = _ALWAYS, plan_name: str | None = None, metadata: bool = False
) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
    """Yield the uids of finished runs with ``auto: true``, of any technique. The search runs on the server.

    Args:
        client: the catalogue.
        ended: when the runs ended.
        plan_name: name of their plan; None: any.
        metadata: whether to yield the runs' metadata, too; otherwise None.
    """
    found = ended.select(_requesting(client).search(KeyPresent("stop.exit_status")), "stop.time")
    if plan_name is not None:
        found = found.search(Key("start.plan_name") == plan_name)
    if metadata:
        yield from ((uid, run.metadata) for uid, run in found.items())
    else:
        yield from ((uid, None) for uid in found)


def open_runs(client: Container, *, begun: Period) -> Iterator[str]:
    """Yield the uids of runs with ``auto: true`` that have no stop document. The search runs on the server.

    Args:
        client: the catalogue.
        begun: when the runs began.
    """
    yield from begun.select(_requesting(client).search(KeyPresent("stop.exit_status", False)), "start.time")


def _requesting(client: Container) -> Container:
    return client.search(Key("start.multislice.auto") == True)  # noqa: E712  (a query, not a comparison)
