"""The flow that Prefect runs for each scan: resolve → plan → stage → reconstruct → publish."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.states import Completed
from tiled.client.container import Container

from bluesky_multislice import catalog
from bluesky_multislice.instrument import read_instrument
from bluesky_multislice.interchange import read_provenance, write_scan
from bluesky_multislice.interchange.job_folder import JobFolder
from bluesky_multislice.listener import automatic_key
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.schedulers import (
    Allocation,
    JobStatus,
    Scheduler,
    SiteProfile,
    allocate,
    machine_of,
    make_scheduler,
    read_site,
    run_to_end,
)
from bluesky_multislice.settings import FLOW, ServiceSettings
from flows.reports import ProgressReport, report_result

_EVERYTHING_DERIVED = Recipe()


def _end_job(flow: Flow, flow_run: FlowRun, state: State) -> None:
    """End a job that outlived its flow run, such as one that was killed for its memory."""
    settings = ServiceSettings.from_environment()
    scheduler = make_scheduler(read_site(settings.site))
    folder = _folder(settings, flow_run.parameters["run_uid"], flow_run)
    if job := scheduler.adopt(folder, name=str(flow_run.id)):
        scheduler.cancel(job)


@flow(
    name=FLOW,
    flow_run_name="{run_uid:.8} {recipe.propagation}",
    retries=0,
    on_cancellation=[_end_job],
    on_crashed=[_end_job],
)
def reconstruct_scan(run_uid: str, recipe: Recipe = _EVERYTHING_DERIVED) -> State:
    """Reconstruct a finished scan and publish the volume where the frames came from.

    Args:
        run_uid: unique identifier of the Bluesky run in Tiled.
        recipe: how to reconstruct it; whatever is left out is derived from the scan.
    """
    settings = ServiceSettings.from_environment()
    client = catalog.connect(settings.tiled_uri)
    with closing(client.context):
        if former := _made_before(client, run_uid, recipe):
            get_run_logger().info("Nothing to do: %s has this recipe", former)
            return Completed(message=f"Was already at {former}")
        return Completed(message=f"Published at {_reconstruct_and_publish(client, run_uid, recipe, settings)}")


def _reconstruct_and_publish(client: Container, run_uid: str, recipe: Recipe, settings: ServiceSettings) -> str:
    flow_run, seconds = _this_run(), {}
    with _timed(seconds, "resolve"):
        resolved = resolve(client, run_uid, recipe, settings)
    site = read_site(settings.site)
    with _timed(seconds, "plan"):
        plan = make_the_plan(recipe, resolved, site)
    allocation = allocate(site, recipe.resources, ranks=plan.ranks)
    with _timed(seconds, "stage"):
        folder = _folder(settings, run_uid, flow_run).create(site.readers)
        stage(folder, recipe, plan, resolved)
    with _timed(seconds, "reconstruct"):
        reconstruct(make_scheduler(site), folder, allocation, plan, resolved.run_uid)
    provenance = read_provenance(folder.result) | {
        "model": recipe.propagation,
        "flow_run": {"id": str(flow_run.id), "name": flow_run.name},
        "job_folder": str(folder.path),
        "seconds": dict(seconds),
    }
    with _timed(seconds, "publish"):
        path = publish(client, folder, recipe, provenance, resolved)
    report_result(
        resolved.run_uid,
        path,
        tiled_uri=settings.tiled_uri,
        figures=provenance["figures"],
        seconds=seconds,
    )
    return path


@task(cache_policy=NO_CACHE)
def resolve(client: Container, run_uid: str, recipe: Recipe, settings: ServiceSettings) -> catalog.ResolvedScan:
    """Find the run in Tiled and collect what it measured, each value with its source."""
    instrument = read_instrument(settings.instrument) if settings.instrument else None
    resolved = catalog.resolve_scan(client, run_uid, values=recipe.scan, instrument=instrument)
    log = get_run_logger()
    log.info("Scan %s: %d views of %s", resolved.run_uid, resolved.scan.geometry.views, resolved.scan.frames.shape)
    for warning in resolved.scan.warnings:
        log.warning(warning)
    return resolved


@task(name="plan", cache_policy=NO_CACHE)
def make_the_plan(recipe: Recipe, resolved: catalog.ResolvedScan, site: SiteProfile) -> Plan:
    """Derive grid, slices, ranks and memory."""
    plan = make_plan(recipe, resolved.scan, machine_of(site, recipe.resources))
    log = get_run_logger()
    log.info("%s, volume %s, %d slices, %d ranks", plan.propagation, plan.grid.shape, plan.slices, plan.ranks)
    for note in plan.notes:
        log.warning(note)
    return plan


@task(cache_policy=NO_CACHE)
def stage(folder: JobFolder, recipe: Recipe, plan: Plan, resolved: catalog.ResolvedScan) -> None:
    """Write the job folder: everything that the job needs to run without Tiled and Prefect."""
    write_scan(folder.frames, resolved.scan, files=resolved.files)
    folder.write_job(
        recipe=recipe.model_dump(mode="json"),
        plan=plan.as_dict(),
        origin={
            "run_uid": resolved.run_uid,
            "sources": resolved.scan.sources,
            "warnings": list(resolved.scan.warnings),
        },
    )
    get_run_logger().info("Job folder %s", folder.path)


@task(cache_policy=NO_CACHE)
def reconstruct(scheduler: Scheduler, folder: JobFolder, allocation: Allocation, plan: Plan, run_uid: str) -> None:
    """Run the job and follow it; a cancelled flow run takes the job's processes with it."""
    log, name = get_run_logger(), str(_this_run().id)
    log.info("By hand: %s", scheduler.by_hand(folder, name=name, allocation=allocation))
    report = ProgressReport(run_uid, plan.epochs, log)

    def on_status(status: JobStatus) -> None:
        log.info("Job %s", status)

    run_to_end(scheduler, folder, name=name, allocation=allocation, on_progress=report, on_status=on_status)
    report.done()


@task(cache_policy=NO_CACHE)
def publish(
    client: Container,
    folder: JobFolder,
    recipe: Recipe,
    provenance: dict[str, Any],
    resolved: catalog.ResolvedScan,
) -> str:
    """Register the volume in Tiled and return its path."""
    path = catalog.publish(
        client,
        folder.result,
        run_uid=resolved.run_uid,
        recipe_digest=recipe.digest(),
        provenance=provenance,
        start=resolved.start,
    )
    get_run_logger().info("Published at %s", path)
    return path


def _this_run() -> FlowRun:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("reconstruct_scan runs as a Prefect flow only")
    return context.flow_run


def _folder(settings: ServiceSettings, run_uid: str, flow_run: FlowRun) -> JobFolder:
    """One folder a flow run: a rerun never touches a former result."""
    return JobFolder.under(settings.jobs_root, run_uid, str(flow_run.id))


def _made_before(client: Container, run_uid: str, recipe: Recipe) -> str | None:
    """Return the path of a complete result of this recipe, unless a person asked for another one."""
    if _this_run().idempotency_key != automatic_key(run_uid, recipe.digest()):
        return None
    found = catalog.find_reconstructions(client, run_uid, recipe.digest())
    return next((former.path for former in reversed(found) if former.status == "complete"), None)


@contextmanager
def _timed(seconds: dict[str, float], stage_name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[stage_name] = round(time.monotonic() - begin, 3)
