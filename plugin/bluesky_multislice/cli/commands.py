"""The subcommands of ``multislice``. Each imports its packages when it runs, so that ``--help`` is fast."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console
from rich.progress import Progress

from bluesky_multislice.choices import Propagation
from bluesky_multislice.cli.inspect_command import inspect
from bluesky_multislice.cli.plan_command import plan
from bluesky_multislice.cli.progress_display import ProgressDisplay, summary_lines
from bluesky_multislice.cli.recipe_options import collect_recipe, recipe_options, scan_options
from bluesky_multislice.errors import MultisliceError, PlanError

_CONSOLE, _ERRORS = Console(), Console(stderr=True)
_FILE = click.Path(path_type=Path, dir_okay=False)
_instrument = click.option("--instrument", "instrument_file", type=_FILE, help="Instrument file (TOML).")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="bluesky-multislice")
def multislice() -> None:
    """Three-dimensional reconstruction of samples thicker than the depth of field."""


multislice.add_command(inspect)
multislice.add_command(plan)


def main() -> None:
    """Run the command line. A MultisliceError is printed without a traceback and gives exit status 1."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        multislice()
    except MultisliceError as error:
        _ERRORS.print(f"[red]{type(error).__name__}[/red]", highlight=False)
        for part in ("rule", "got", "remedy"):
            _ERRORS.print(f"  {part}: {getattr(error, part)}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


@multislice.command()
@click.argument("scan", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="Result file (HDF5).")
@click.option(
    "--job-folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the job's state. After an interruption or crash, the same command resumes from there.",
)
@_instrument
@click.option("--site", "site_file", type=_FILE, help="Site profile (TOML) of the machine to use. Default: this one.")
@recipe_options
def reconstruct(
    scan: Path,
    output: Path,
    job_folder: Path | None,
    instrument_file: Path | None,
    site_file: Path | None,
    recipe_file: Path | None,
    **options: Any,
) -> None:
    """Reconstruct the interchange file SCAN. No services are needed."""
    from bluesky_multislice.cli.job_place import job_place

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # the exception also ends the job's ranks
    recipe, instrument = collect_recipe(recipe_file, options), _read_instrument(instrument_file)
    with job_place(output, job_folder, own_environment=site_file is None) as place:
        # These imports take seconds. The process of the place imports the job at the same time.
        from bluesky_multislice.cli.reconstruct_file import reconstruct_file
        from bluesky_multislice.jobs.schedulers import read_site

        site = read_site(site_file)
        with ProgressDisplay(_CONSOLE) as display:
            provenance = reconstruct_file(
                scan, output, recipe, instrument=instrument, site=site, place=place, display=display
            )
    for line in summary_lines(output, provenance):
        _CONSOLE.print(line)


@multislice.command()
@click.argument("volume", type=_FILE)
@click.argument("scan", type=_FILE)
@click.option("-o", "--output", type=_FILE, required=True, help="Output: interchange file with frames.")
@click.option(
    "--propagation",
    type=click.Choice(get_args(Propagation)),
    default="multislice",
    show_default=True,
    help="Model of the propagation inside the sample.",
)
@click.option("--slices", type=int, help="Number of slices along the beam. Default: one per plane of the volume.")
@click.option(
    "--photons",
    type=float,
    help="Add photon noise: mean photons per frame (ptychography) or per pixel (other techniques).",
)
@click.option("--seed", type=int, help="Seed of the photon noise.")
@_instrument
@scan_options
def simulate(volume: Path, scan: Path, output: Path, instrument_file: Path | None, **options: Any) -> None:
    """Simulate the frames of VOLUME for the interchange file SCAN. Values of SCAN given as options are not stored."""
    from bluesky_multislice.cli.simulate_file import Simulation, simulate_file

    own = {name: options.pop(name) for name in ("propagation", "slices", "photons", "seed")}
    if own["seed"] is not None and own["photons"] is None:
        raise PlanError("--seed needs --photons.", got="--seed without --photons.", remedy="give --photons too.")
    own["seed"] = own["seed"] or 0
    values, instrument = collect_recipe(None, options).scan, _read_instrument(instrument_file)
    simulation = Simulation(**own, values=values, instrument=instrument)
    with Progress(console=_CONSOLE) as progress:
        task = progress.add_task("views", total=None)

        def show(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        simulate_file(volume, scan, output, simulation, on_view=show)
    _CONSOLE.print(f"{output}: frames written")


@multislice.command()
@click.argument("scan", type=_FILE)
@click.option(
    "--tiled",
    "tiled_uri",
    envvar="MULTISLICE_TILED_URI",
    required=True,
    help="Address of the Tiled server, or name of a Tiled profile.",
)
@click.option("--auto/--no-auto", default=True, show_default=True, help="Request an automatic reconstruction.")
@_instrument
@recipe_options
def ingest(
    scan: Path, tiled_uri: str, auto: bool, instrument_file: Path | None, recipe_file: Path | None, **options: Any
) -> None:
    """Register the interchange file SCAN in Tiled as a Bluesky run. Its frames are not copied."""
    from bluesky_multislice import catalog

    recipe = collect_recipe(recipe_file, options)
    run_uid = catalog.ingest(
        catalog.connect(tiled_uri),
        scan,
        values=recipe.scan,
        instrument=_read_instrument(instrument_file),
        multislice={"auto": auto, "recipe": recipe.model_dump(mode="json", exclude_defaults=True)},
    )
    _CONSOLE.print(run_uid)


@multislice.command()
@click.option("--state", type=_FILE, help="File for the listener's state. Default: a file in the jobs root.")
@click.option(
    "--sweep-s",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Time between two sweeps of the catalogue, s.",
)
@click.option(
    "--since",
    type=click.DateTime(),
    envvar="MULTISLICE_SINCE",
    help="Leave runs alone that ended before this local time. Default: the listener's first start.",
)
@click.option(
    "--open-after-h",
    type=click.FloatRange(min=0),
    default=24.0,
    show_default=True,
    envvar="MULTISLICE_OPEN_AFTER_H",
    help="Time after its start at which a run without a stop document is told, h.",
)
def listen(state: Path | None, sweep_s: float, since: datetime | None, open_after_h: float) -> None:
    """Start a flow run for every finished scan that requests one. Runs until it is stopped."""
    from bluesky_multislice.listener import listen as listen_for_scans
    from bluesky_multislice.recipe import ServiceSettings

    logging.getLogger("bluesky_multislice").setLevel(logging.INFO)
    settings = ServiceSettings.from_environment()
    listen_for_scans(settings, state=state, sweep_s=sweep_s, since=since, open_after_h=open_after_h)


@multislice.command()
@click.option("--since", type=click.DateTime(), required=True, help="First end of a run, local time.")
@click.option("--until", type=click.DateTime(), help="Runs ended before this local time. Default: any.")
@click.option("--plan-name", help="Name of the runs' plan. Default: any.")
@click.option(
    "--most-waiting",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Largest number of backfilled flow runs that wait in Prefect.",
)
@click.option("--dry-run", is_flag=True, help="Only list what would be done.")
def backfill(since: datetime, until: datetime | None, plan_name: str | None, most_waiting: int, dry_run: bool) -> None:
    """Reconstruct scans that requested it before the listener's first start, at low priority, the newest first.

    The command ends when the last flow run is created. It can be stopped and repeated at any time.
    """
    from bluesky_multislice.listener import Selection
    from bluesky_multislice.listener import backfill as backfill_runs
    from bluesky_multislice.recipe import ServiceSettings

    settings, selection = ServiceSettings.from_environment(), Selection(since, until, plan_name)
    for run in backfill_runs(settings, selection, most_waiting=most_waiting, dry_run=dry_run):
        ended = "unknown end" if run.ended is None else f"{run.ended.astimezone():%Y-%m-%d %H:%M}"
        _CONSOLE.print(f"{run.uid}: {ended}, {run.outcome}", soft_wrap=True, markup=False)


@multislice.command()
@click.option("--every", "every_s", type=click.FloatRange(min=1), help="Repeat with this period, s. Default: run once.")
def reap(every_s: float | None) -> None:
    """Handle jobs whose flow has died, and publish their results. Run it on the machine that runs local jobs."""
    from bluesky_multislice.recipe import ServiceSettings
    from flows.reap_jobs import keep_reaping, reap_jobs

    settings = ServiceSettings.from_environment()
    if every_s is not None:
        logging.getLogger("flows").setLevel(logging.INFO)
        keep_reaping(settings, every_s)
    for taken in reap_jobs(settings):
        _CONSOLE.print(f"{taken.flow_run_id}: {taken.action}", soft_wrap=True)


@multislice.command()
@click.option("--all", "everything", is_flag=True, help="Also show jobs that have an outcome and are left alone.")
def jobs(everything: bool) -> None:
    """List the job folders: record of the job, state of its flow run, and what will happen next."""
    from bluesky_multislice.recipe import ServiceSettings
    from flows.job_list import list_jobs

    for line in list_jobs(ServiceSettings.from_environment()):
        if everything or line.next:
            _CONSOLE.print(f"{line.folder}: {line.record}, flow run {line.flow_run}", soft_wrap=True)
            _CONSOLE.print(f"    next: {line.next or 'nothing'}", soft_wrap=True)


@multislice.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def publish(folder: Path) -> None:
    """Publish in Tiled the result that a flow has left in a job folder."""
    from bluesky_multislice.jobs import JobFolder
    from bluesky_multislice.recipe import ServiceSettings
    from flows.publication import publish_by_hand

    path = publish_by_hand(ServiceSettings.from_environment(), JobFolder(folder.absolute()))
    _CONSOLE.print(f"Published at {path}", soft_wrap=True)


@multislice.command()
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Largest number of simultaneous jobs.",
)
def deploy(jobs: int) -> None:
    """Create or update work pool, queues and deployment on the Prefect server of PREFECT_API_URL."""
    from flows.deploy import deploy as deploy_flow

    deploy_flow(jobs=jobs)


@multislice.command()
@click.option("--technique", type=click.Choice(["ptychography", "holography", "both"]), default="both")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("demo-out"), show_default=True)
@click.option("--keep-serving", is_flag=True, help="Keep the servers running until Ctrl-C.")
@click.option("--epochs", type=click.IntRange(min=1), help="Largest number of epochs: fewer give a first look sooner.")
def demo(technique: Any, out: Path, keep_serving: bool, epochs: int | None) -> None:
    """Scan and reconstruct samples on a simulated beamline with real servers."""
    with _needs_extra("demo"):
        from bluesky_multislice.demo import run_demo

    sys.exit(run_demo(technique, out, keep_serving=keep_serving, epochs=epochs))


@multislice.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("serve-out"), show_default=True)
@click.option(
    "--readable",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    multiple=True,
    help="Folder of scans that Tiled may read. Can be given several times.",
)
def serve(out: Path, readable: tuple[Path, ...]) -> None:
    """Run Tiled, Prefect, a worker and the listener on this machine, to try them with your own scans."""
    with _needs_extra("demo"):
        from bluesky_multislice.demo import serve_until_interrupted

    serve_until_interrupted(out, readable)


@contextmanager
def _needs_extra(extra: str) -> Iterator[None]:
    """Explain that a command needs packages that only an extra installs."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MultisliceError(
            f"This command needs the packages of the extra {extra}.",
            got=f"no package {error.name}.",
            remedy=f"pip install 'bluesky-multislice[{extra}]'",
        ) from error


def _read_instrument(path: Path | None):
    from bluesky_multislice.recipe import read_instrument

    return None if path is None else read_instrument(path)
