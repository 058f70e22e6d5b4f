"""The flow that Prefect runs for each scan: resolve → plan → stage → reconstruct → publish.

A flow run owns one job, whose name is the flow run's id. If the flow's process dies, the next attempt of the same flow
run adopts the job, or publishes its result.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.states import Completed, Crashed
from tiled.client.container import Container

from bluesky_multislice import catalog
from bluesky_multislice.errors import CatalogAwayError, MultisliceError
from bluesky_multislice.files import former_record, link_result, read_former, read_provenance, write_scan
from bluesky_multislice.jobs import EarlyRanks, JobFolder
from bluesky_multislice.jobs.schedulers import (
    LocalScheduler,
    SiteProfile,
    allocate,
    machine_of,
    make_scheduler,
    read_site,
)
from bluesky_multislice.listener import automatic_key, tiled_key
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.recipe import FLOW, Recipe, ServiceSettings, read_instrument
from flows.folder_writes import explain_write_errors, record_outcome
from flows.heartbeat import heartbeat
from flows.hooks import end_job, keep_job_for_next_attempt, next_attempt_takes_over
from flows.owned_job import OwnedJob
from flows.patience import wait_for_prefect, wait_for_tiled
from flows.publication import publish_once
from flows.reports import ProgressReport, report_result

_DEFAULT_RECIPE = Recipe()


@flow(
    name=FLOW,
    flow_run_name="{run_uid:.8} {recipe.propagation}",
    retries=0,
    on_cancellation=[end_job],
    on_crashed=[keep_job_for_next_attempt],
)
def reconstruct_scan(run_uid: str, recipe: Recipe = _DEFAULT_RECIPE) -> State:
    """Reconstruct a finished scan and publish the volume in the Tiled catalogue that contains the scan.

    Args:
        run_uid: unique identifier of the Bluesky run in Tiled.
        recipe: options of the reconstruction; omitted options are derived from the scan.
    """
    settings, log = ServiceSettings.from_environment(), get_run_logger()
    site = read_site(settings.site)
    folder = JobFolder.under(settings.jobs_root, run_uid, str(_this_run().id)).create(site.readers)
    with heartbeat(folder):
        try:
            with _record_failure(folder):
                state = _with_catalogue(run_uid, recipe, settings, site, folder)
        except CatalogAwayError as error:
            # The record has no outcome, so the reaper runs the flow again when the server is back.
            state = Crashed(message=str(error))
        wait_for_prefect(log, settings.patience_s)
        return state


def _with_catalogue(
    run_uid: str, recipe: Recipe, settings: ServiceSettings, site: SiteProfile, folder: JobFolder
) -> State:
    log = get_run_logger()
    key = tiled_key(settings)
    client = wait_for_tiled(lambda: catalog.connect(settings.tiled_uri, key), log, settings.patience_s)
    with closing(client.context):
        # A key that cannot publish is refused before the reconstruction, not after it.
        wait_for_tiled(lambda: catalog.check_scopes(client, catalog.PUBLISHING_SCOPES), log, settings.patience_s)
        former = wait_for_tiled(lambda: _existing_result(client, run_uid, recipe), log, settings.patience_s)
        if former:
            log.info("Nothing to do: %s was made with this recipe", former)
            record_outcome(folder, lambda record: record.publish(former))
            return Completed(message=f"Already published at {former}")
        with _early_ranks(folder, site) as early:
            job = _owned_job(folder, site, early)
            return _reconstruct_and_publish(client, run_uid, recipe, settings, site, job)


def _reconstruct_and_publish(
    client: Container, run_uid: str, recipe: Recipe, settings: ServiceSettings, site: SiteProfile, job: OwnedJob
) -> State:
    seconds: dict[str, float] = {}
    folder, adopted = job.folder, job.find()
    with _timed(seconds, "resolve"):
        resolved = resolve(client, run_uid, recipe, settings)
        if recipe.start_from is not None and not adopted:
            resolved = start_from(client, recipe.start_from, folder, resolved, settings.patience_s)
    if adopted:
        plan = Plan.from_dict(folder.read_job()["plan"])
    else:
        with _timed(seconds, "plan"):
            plan = derive_plan(recipe, resolved, site)
        with _timed(seconds, "stage"):
            stage(folder, recipe, plan, resolved, settings.patience_s)
    try:
        with _timed(seconds, "reconstruct"):
            reconstruct(job, site, recipe, plan, resolved.run_uid)
    except MultisliceError as error:
        state = job.state_of(error)
        message = state.message or ""
        record_outcome(folder, lambda record: record.cancel(message) if state.is_cancelled() else record.fail(message))
        return state
    made_by, provenance = _made_by(job, seconds), read_provenance(folder.result)
    with _timed(seconds, "publish"):
        path = publish(client, folder, resolved, made_by, settings.patience_s)
    report_result(resolved.run_uid, path, tiled_uri=client.uri, provenance=provenance, seconds=seconds)
    return Completed(message=f"Published at {path}; verdict: {provenance['figures']['verdict']}")


@task(cache_policy=NO_CACHE)
def resolve(client: Container, run_uid: str, recipe: Recipe, settings: ServiceSettings) -> catalog.ResolvedScan:
    """Find the run in Tiled and read its frames and geometry, each value with its source."""
    instrument = read_instrument(settings.instrument) if settings.instrument else None
    log = get_run_logger()
    resolved = wait_for_tiled(
        lambda: catalog.resolve_scan(client, run_uid, values=recipe.scan, instrument=instrument, frames=recipe.frames),
        log,
        settings.patience_s,
    )
    log.info("Scan %s: %d views of %s", resolved.run_uid, resolved.scan.geometry.views, resolved.scan.frames.shape)
    for warning in resolved.scan.warnings:
        log.warning(warning)
    return resolved


@task(cache_policy=NO_CACHE)
def start_from(
    client: Container, former: str, folder: JobFolder, resolved: catalog.ResolvedScan, patience_s: float
) -> catalog.ResolvedScan:
    """Write the former result, a file or a node of the catalogue, into the job folder, and add it to the scan."""
    path, log = Path(former).expanduser(), get_run_logger()
    is_file = path.exists()
    with explain_write_errors(folder):
        if is_file:
            link_result(path, folder.former)
        else:
            wait_for_tiled(lambda: catalog.fetch_result(client, former, folder.former), log, patience_s)
        result = read_former(folder.former)
    log.info("Starts from %s", result.name)
    return replace(resolved, scan=replace(resolved.scan, former=result))


@task(name="plan", cache_policy=NO_CACHE)
def derive_plan(recipe: Recipe, resolved: catalog.ResolvedScan, site: SiteProfile) -> Plan:
    """Derive grid, slices, ranks and memory."""
    plan = make_plan(recipe, resolved.scan, machine_of(site, recipe.resources))
    log = get_run_logger()
    log.info("%s, volume %s, %d slices, %d ranks", plan.propagation, plan.grid.shape, plan.slices, plan.ranks)
    for note in plan.notes:
        log.warning(note)
    return plan


@task(cache_policy=NO_CACHE)
def stage(folder: JobFolder, recipe: Recipe, plan: Plan, resolved: catalog.ResolvedScan, patience_s: float) -> None:
    """Write the job folder, which contains everything that the job needs. The job uses neither Tiled nor Prefect."""
    log = get_run_logger()
    with explain_write_errors(folder):
        # Frames that this machine cannot link are read from Tiled.
        wait_for_tiled(lambda: write_scan(folder.frames, resolved.scan, files=resolved.files), log, patience_s)
        folder.write_job(
            recipe=recipe.model_dump(mode="json"),
            plan=plan.as_dict(),
            origin={
                "run_uid": resolved.run_uid,
                "sources": resolved.scan.sources,
                "warnings": list(resolved.scan.warnings),
                "former_result": former_record(resolved.scan.former),
            },
        )
    log.info("Job folder %s", folder.path)


@task(cache_policy=NO_CACHE)
def reconstruct(job: OwnedJob, site: SiteProfile, recipe: Recipe, plan: Plan, run_uid: str) -> None:
    """Run or adopt the job and monitor it. If the flow run is cancelled, the job is cancelled too."""
    report = ProgressReport(run_uid, plan.epochs, job.folder, get_run_logger())
    allocation = allocate(site, recipe.resources, ranks=plan.ranks, device=plan.device)
    try:
        job.run(allocation, on_progress=report.on_progress, on_status=report.on_status)
    except Exception:
        job.cancel()
        raise
    except BaseException:  # Prefect terminates the flow, or Ctrl-C
        if not next_attempt_takes_over(_this_run()):
            job.cancel()
            record_outcome(job.folder, lambda record: record.cancel("The flow run was terminated."))
        raise
    report.done()


@task(cache_policy=NO_CACHE)
def publish(
    client: Container, folder: JobFolder, resolved: catalog.ResolvedScan, made_by: dict[str, Any], patience_s: float
) -> str:
    """Register the volume in Tiled and return its path."""
    log = get_run_logger()
    path = wait_for_tiled(
        lambda: publish_once(client, folder, run_uid=resolved.run_uid, start=resolved.start, made_by=made_by),
        log,
        patience_s,
    )
    log.info("Published at %s", path)
    return path


def _made_by(job: OwnedJob, seconds: dict[str, float]) -> dict[str, Any]:
    """Return the flow's and the scheduler's entries for the provenance."""
    flow_run = _this_run()
    return {
        "flow_run": {
            "id": str(flow_run.id),
            "name": flow_run.name,
            "attempts": flow_run.run_count,
            "job_restarts": job.all_restarts,
        },
        "seconds": dict(seconds),
    }


def _early_ranks(folder: JobFolder, site: SiteProfile) -> AbstractContextManager[EarlyRanks | None]:
    """Start the process that imports the job while the scan is read, unless there is a job or it has its own Python."""
    has_job = bool(folder.read_record().job_id)
    return nullcontext() if has_job or not site.own_environment else EarlyRanks(folder)


def _owned_job(folder: JobFolder, site: SiteProfile, early: EarlyRanks | None) -> OwnedJob:
    name, log = str(_this_run().id), get_run_logger()
    scheduler = LocalScheduler(site, early=early) if early else make_scheduler(site)
    return OwnedJob(scheduler, folder, name=name, most_restarts=site.most_restarts, log=log)


def _this_run() -> FlowRun:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("reconstruct_scan must run as a Prefect flow")
    return context.flow_run


def _existing_result(client: Container, run_uid: str, recipe: Recipe) -> str | None:
    """Return the path of a complete result of this recipe; None if there is none or a person started the flow run."""
    if _this_run().idempotency_key != automatic_key(run_uid, recipe.digest()):
        return None
    found = catalog.find_reconstructions(client, run_uid, recipe.digest())
    return next((former.path for former in reversed(found) if former.complete), None)


@contextmanager
def _record_failure(folder: JobFolder) -> Iterator[None]:
    """Also write the error that ends the flow into the job folder, unless the flow will run again."""
    try:
        yield
    except CatalogAwayError:
        raise
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        record_outcome(folder, lambda record: record.fail(message))
        raise


@contextmanager
def _timed(seconds: dict[str, float], stage_name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    seconds[stage_name] = round(time.monotonic() - begin, 3)
