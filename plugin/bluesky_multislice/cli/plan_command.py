"""The command ``multislice plan``: what a reconstruction would cost, before anything is allocated."""

from pathlib import Path
from typing import Any

import click

from bluesky_multislice.cli.recipe_options import collect_recipe, recipe_options
from bluesky_multislice.errors import PlanError

_FILE = click.Path(path_type=Path, dir_okay=False)
_COUNT = click.IntRange(min=1)
_SIZE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.argument("scan", type=_FILE, required=False)
@click.option("--instrument", "instrument_file", type=_FILE, help="Instrument file (TOML).")
@click.option("--volume", type=_COUNT, help="Instead of SCAN: voxels on a side of a cube.")
@click.option("--frame", type=_COUNT, help="Pixels on a side of a frame. Without: as many as voxels.")
@click.option("--angles", type=_COUNT, help="Angles of half a turn. Without: 180.")
@click.option("--views-an-angle", type=_COUNT, help="Positions at each angle, a square number; 1 is holography.")
@click.option("--pixel-nm", type=_SIZE, default=10.0, show_default=True, help="Size of a voxel, nm.")
@click.option("--energy-kev", type=_SIZE, default=12.4, show_default=True, help="Photon energy, keV.")
@click.option(
    "--gpu-memory-gb", type=_SIZE, help="Plan for GPUs of this memory, as many as ranks. Without: this machine."
)
@click.option("--site", "site_file", type=_FILE, help="Profile (TOML) of the site that computes, as of reconstruct.")
@click.option("--profile", "profile_file", type=_FILE, help="Measured times (JSON). Without: those of a data sheet.")
@click.option(
    "--machine",
    type=click.Choice(["a100", "h100", "h200", "mi250", "cpu-node"]),
    help="Machine whose data sheet gives times. Without: one with the memory of the GPUs, or a node of processors.",
)
@click.option("--measure", "measured_file", type=_FILE, help="Measure this machine, and write its times to this file.")
@click.option("--scaling", is_flag=True, help="Holograms and patterns of 256³ to 2048³ voxels on 1 to 64 GPUs.")
@recipe_options
def plan(
    scan: Path | None,
    measured_file: Path | None,
    profile_file: Path | None,
    recipe_file: Path | None,
    scaling: bool,
    **options: Any,
) -> None:
    """Say what reconstructing SCAN, or a scan of some sizes, takes in memory, exchange and time."""
    from bluesky_multislice.cli import plan_scan
    from bluesky_multislice.planning import data_sheets, measure_machine, read_profile, write_profile

    own = {name: options.pop(name) for name in _OWN}
    recipe = collect_recipe(recipe_file, options)
    asked = sum((scan is not None, own["volume"] is not None, measured_file is not None, scaling))
    if asked != 1:
        raise PlanError(
            "One thing is planned at a time.",
            got=f"{asked} of SCAN, --volume, --measure and --scaling.",
            remedy="give one of them.",
        )
    if own["volume"] is None and (ignored := [name for name in _SIZES if own[name] is not None]):
        raise PlanError(
            "Sizes are those of a scan that is planned without a file.",
            got=f"{', '.join(ignored)} without --volume.",
            remedy="give --volume instead of SCAN, or leave them out.",
        )
    if measured_file is not None:
        profile = measure_machine(recipe.device)
        write_profile(measured_file, profile)
        click.echo("\n".join(plan_scan.profile_lines(profile)))
        return
    if scaling:
        from bluesky_multislice.cli.scaling_table import scaling_lines

        for line in scaling_lines(data_sheets()[own["machine"] or "a100"]):
            click.echo(line)
        return
    profile = None if profile_file is None else read_profile(profile_file)
    click.echo("\n".join(plan_scan.plan_lines(scan, own, recipe, profile)))


_SIZES = ("frame", "angles", "views_an_angle")

_OWN = (
    "instrument_file",
    "volume",
    "frame",
    "angles",
    "views_an_angle",
    "pixel_nm",
    "energy_kev",
    "gpu_memory_gb",
    "machine",
    "site_file",
)
"""Options that are not the recipe's."""
