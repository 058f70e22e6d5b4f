"""The command ``multislice inspect``: what a scan contains, what is missing, and the plan, without reconstructing."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bluesky_multislice.cli.recipe_options import collect_recipe, recipe_options
from bluesky_multislice.errors import ScanError

if TYPE_CHECKING:  # files and recipe import packages that take long
    from bluesky_multislice.files import ScanInspection
    from bluesky_multislice.recipe import Instrument, Recipe

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("scan", metavar="FILE|UID")
@click.option("--picture", "picture_file", type=_FILE, help="Draw mean frame, mask, positions and angles in this PNG.")
@click.option("--write-instrument", "starter_file", type=_FILE, help="Write a starter instrument file (TOML).")
@click.option("--instrument", "instrument_file", type=_FILE, help="Instrument file (TOML).")
@click.option(
    "--tiled",
    "tiled_uri",
    envvar="MULTISLICE_TILED_URI",
    help="For a run: address of the Tiled server, or name of a Tiled profile.",
)
@click.option("--site", "site_file", type=_FILE, help="Site profile (TOML) of the machine to use. Default: this one.")
@recipe_options
def inspect(
    scan: str,
    picture_file: Path | None,
    starter_file: Path | None,
    site_file: Path | None,
    **options: Any,
) -> None:
    """Tell what a scan file or a run contains, what is missing, and the plan. Nothing is reconstructed.

    Exit status 0: the scan can be reconstructed; 1: it cannot.
    """
    from bluesky_multislice.cli import inspect_scan

    places = {name: options.pop(name) for name in ("instrument_file", "tiled_uri", "recipe_file")}
    is_file = Path(scan).exists() or Path(scan).suffix != "" or os.sep in scan
    inspection, recipe = _inspect_file(Path(scan), places, options) if is_file else _inspect_run(scan, places, options)
    shown = inspect_scan.describe(inspection, recipe, site_file)
    click.echo("\n".join(shown.lines))
    if picture_file is not None:
        inspect_scan.draw(picture_file, inspection, shown.sample)
        click.echo(f"{picture_file}: picture written")
    if starter_file is not None:
        inspect_scan.write_starter(starter_file, inspection)
        click.echo(f"{starter_file}: instrument file written")
    sys.exit(0 if shown.usable else 1)


def _inspect_file(path: Path, places: dict[str, Any], options: dict[str, Any]) -> "tuple[ScanInspection, Recipe]":
    from bluesky_multislice.files import inspect_scan

    recipe = collect_recipe(places["recipe_file"], options)
    instrument = _read_instrument(places["instrument_file"])
    return inspect_scan(path, values=recipe.scan, instrument=instrument, frames=recipe.frames), recipe


def _inspect_run(uid: str, places: dict[str, Any], options: dict[str, Any]) -> "tuple[ScanInspection, Recipe]":
    """Inspect a run with the recipe of its start document and the instrument file of the services."""
    if places["tiled_uri"] is None:
        raise ScanError(
            "A scan is a file that exists, or the uid of a run in a Tiled catalogue.",
            got=f"{uid!r}, which is no file, without the address of a catalogue.",
            remedy="correct the path, or give --tiled ADDRESS or MULTISLICE_TILED_URI.",
        )
    from bluesky_multislice.catalog import connect, find_run, inspect_run

    client = connect(places["tiled_uri"])
    click.get_current_context().call_on_close(client.context.close)  # Frames are read after this function.
    of_run = (find_run(client, uid).start.get("multislice") or {}).get("recipe")
    recipe = collect_recipe(places["recipe_file"], options, of_run)
    of_services = os.environ.get("MULTISLICE_INSTRUMENT")
    path = places["instrument_file"] or (Path(of_services) if of_services else None)
    inspection = inspect_run(client, uid, values=recipe.scan, instrument=_read_instrument(path), frames=recipe.frames)
    return inspection, recipe


def _read_instrument(path: Path | None) -> "Instrument | None":
    from bluesky_multislice.recipe import read_instrument

    return None if path is None else read_instrument(path)
