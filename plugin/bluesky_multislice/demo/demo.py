"""Scans and reconstructions on a simulated beamline. All components from the RunEngine to Tiled are real."""

import logging
import signal
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from numpy.typing import NDArray
from prefect.client.orchestration import SyncPrefectClient, get_client
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn, TimeElapsedColumn
from tiled.client.container import Container

from bluesky_multislice.catalog import connect
from bluesky_multislice.choices import Propagation
from bluesky_multislice.demo.flow_runs import MonitoredRun, rerun
from bluesky_multislice.demo.report import Outcome, make_tables, read_outcome, save_picture
from bluesky_multislice.demo.services import Services, serve
from bluesky_multislice.demo.serving import keep_serving_until_interrupted
from bluesky_multislice.errors import JobError
from bluesky_multislice.jobs import write_json
from bluesky_multislice.optics.accelerator import accelerator_count
from bluesky_multislice.recipe import Recipe
from bluesky_multislice.simulation.beamline import run_scan
from bluesky_multislice.simulation.phantoms import Sample, demo_sample

_MAX_RANKS = 2
"""Largest number of ranks per reconstruction. It is small because two scans are reconstructed at the same time."""

_SERVICES = 4
_EVENTS_PER_BATCH = 20
_LISTENER_TIMEOUT_S = 90.0


@dataclass(frozen=True, eq=False)
class _Case:
    technique: str
    sample: Sample
    frames: NDArray


def run_demo(
    technique: Literal["ptychography", "holography", "both"],
    out: Path,
    *,
    keep_serving: bool = False,
    epochs: int | None = None,
) -> int:
    """Run scans, wait for their automatic reconstructions, and compare these with the truth.

    Args:
        technique: techniques of the scans.
        out: folder for the output: ``report.json``, pictures, catalogue, logs.
        keep_serving: keep the servers running until Ctrl-C.
        epochs: largest number of epochs of each reconstruction; None: planned.

    Returns:
        Exit status.

    Raises:
        ServiceError: a service did not start, or ended unexpectedly.
        JobError: a flow run failed, or the listener did not start it.
    """
    logging.getLogger().setLevel(logging.WARNING)  # hides the log of HTTP requests
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # leaving the contexts ends the services
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    console, start_time = Console(), time.monotonic()
    cases: list[_Case] = []
    techniques: tuple[str, ...] = ("holography", "ptychography") if technique == "both" else (technique,)
    with Progress(*_columns(), console=console) as progress:
        task = progress.add_task("starting services", total=_SERVICES, state="")
        with serve(
            out,
            meanwhile=lambda: cases.extend(_simulate(name, progress) for name in techniques),
            on_ready=lambda name: progress.update(task, advance=1, state=f"{name} is up"),
        ) as services:
            client = connect(services.tiled_uri, services.api_key)
            with closing(client.context), get_client(sync_client=True) as prefect:
                recipe = demo_recipe("multislice", epochs)
                runs = [_scan(client, services, case, recipe, progress) for case in cases]
                runs = _wait_for_flow_runs(prefect, services, runs, progress)
                samples = {case.technique: case.sample for case in cases}
                outcomes = [read_outcome(client, run, samples[run.technique]) for run in runs]
            progress.stop()
            _report(console, out, services, cases, outcomes, time.monotonic() - start_time)
            if keep_serving:
                keep_serving_until_interrupted(console, services)
    return 0


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description:36}"),
        BarColumn(),
        TextColumn("{task.fields[state]:24}"),
        TimeElapsedColumn(),
    )


def _simulate(technique: str, progress: Progress) -> _Case:
    task = progress.add_task(f"simulating the {technique} frames", total=None, state="")
    sample = demo_sample(technique)
    case = _Case(technique, sample, sample.frames())
    progress.update(task, total=1, completed=1, state=f"{len(case.frames)} frames")
    return case


def demo_recipe(propagation: Propagation, epochs: int | None = None) -> Recipe:
    """Return the demo's recipe: two ranks, or fewer if this machine has fewer GPUs.

    Args:
        propagation: multislice, or projection for comparison.
        epochs: largest number of epochs; None: planned.
    """
    return Recipe(ranks=min(_MAX_RANKS, accelerator_count() or _MAX_RANKS), propagation=propagation, epochs=epochs)


def _scan(client: Container, services: Services, case: _Case, recipe: Recipe, progress: Progress) -> MonitoredRun:
    """Run the scan on the simulated beamline. Its start document requests the reconstruction."""
    task = progress.add_task(f"{case.technique} scan", total=len(case.frames), state="RunEngine")
    run_uid = run_scan(
        client,
        case.frames,
        case.sample.geometry,
        folder=services.detector,
        metadata={"multislice": {"auto": True, "recipe": recipe.model_dump(mode="json", exclude_defaults=True)}},
        progress=lambda frames: progress.update(task, completed=frames),
        batch_size=_EVENTS_PER_BATCH,
    )
    progress.update(task, state=f"run {run_uid:.8}")
    return MonitoredRun(case.technique, run_uid, recipe)


def _wait_for_flow_runs(
    prefect: SyncPrefectClient, services: Services, runs: list[MonitoredRun], progress: Progress
) -> list[MonitoredRun]:
    """Wait for the flow runs. After each multislice reconstruction, start another one with the projection model."""
    waiting, done, start_time = list(runs), [], time.monotonic()
    tasks: dict[int, TaskID] = {}
    while waiting:
        services.check()
        for run in tuple(waiting):
            if id(run) not in tasks:
                tasks[id(run)] = progress.add_task(f"{run.technique}, {run.recipe.propagation}", total=None, state="")
            run.update(prefect)
            epoch, epochs = run.epochs(services.jobs_root)
            progress.update(tasks[id(run)], completed=epoch, total=epochs, state=run.state)
            if run.ended:
                waiting.remove(run)
                done.append(run)
                if run.recipe.propagation == "multislice":
                    recipe = demo_recipe("projection", run.recipe.epochs)
                    waiting.append(rerun(prefect, run.technique, run.run_uid, recipe))
        if time.monotonic() - start_time > _LISTENER_TIMEOUT_S and any(run.flow_run is None for run in waiting):
            raise JobError(
                "The listener must start a flow run for each scan.",
                got=f"no flow run after {_LISTENER_TIMEOUT_S:g} s.",
                remedy="read logs/listener.log in the demo's folder.",
            )
        time.sleep(0.5)
    return done


def _report(
    console: Console, out: Path, services: Services, cases: list[_Case], outcomes: list[Outcome], seconds: float
) -> None:
    console.print(*make_tables(outcomes), sep="\n")
    pictures = {}
    for case in cases:
        pictures[case.technique] = out / f"{case.technique}.png"
        of_case = [outcome for outcome in outcomes if outcome.run.technique == case.technique]
        save_picture(pictures[case.technique], case.sample, of_case)
        console.print(f"Picture: {pictures[case.technique]}", soft_wrap=True)
    for outcome in outcomes:
        console.print(f"Tiled path: {outcome.path}", soft_wrap=True)
    console.print(f"Tiled: {services.tiled_uri}\nPrefect: {services.prefect_uri}", soft_wrap=True)
    record = {
        "seconds": round(seconds, 1),
        "tiled": services.tiled_uri,
        "prefect": services.prefect_uri,
        "pictures": {technique: str(path) for technique, path in pictures.items()},
        "reconstructions": [outcome.as_dict() for outcome in outcomes],
    }
    write_json(out / "report.json", record)
    console.print(f"Report: {out / 'report.json'} after {seconds:.0f} s", soft_wrap=True)
