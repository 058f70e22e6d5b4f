"""The command ``multislice plan``: predicts memory, communication and time of a reconstruction without running it."""

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
@click.option("--volume", type=_COUNT, help="Plan a cubic volume instead of SCAN: voxels per side.")
@click.option("--frame", type=_COUNT, help="Pixels per side of a frame. Default: the number of voxels per side.")
@click.option("--angles", type=_COUNT, help="Number of angles over 180°. Default: 180.")
@click.option(
    "--views-per-angle",
    "views_per_angle",
    type=_COUNT,
    help="Positions per angle, a square number; 1 means holography.",
)
@click.option("--views-an-angle", "views_an_angle", type=_COUNT, hidden=True)
@click.option("--pixel-nm", type=_SIZE, default=10.0, show_default=True, help="Voxel size, nm.")
@click.option("--energy-kev", type=_SIZE, default=12.4, show_default=True, help="Photon energy, keV.")
@click.option(
    "--gpu-memory-gb", type=_SIZE, help="Plan for GPUs with this memory, GB, one per rank. Default: this machine."
)
@click.option("--site", "site_file", type=_FILE, help="Site profile (TOML) of the machine to use. Default: this one.")
@click.option("--profile", "profile_file", type=_FILE, help="Measured times (JSON). Default: times from a data sheet.")
@click.option(
    "--machine",
    type=click.Choice(["a100", "h100", "h200", "mi250", "cpu-node"]),
    help="Machine whose data sheet gives the times. Default: a GPU with the memory of the plan's GPUs, or a CPU node.",
)
@click.option("--measure", "measured_file", type=_FILE, help="Measure this machine and write its times to this file.")
@click.option(
    "--scaling", is_flag=True, help="Print a table for holograms and patterns, 256³ to 2048³ voxels, 1 to 64 GPUs."
)
@recipe_options
def plan(
    scan: Path | None,
    measured_file: Path | None,
    profile_file: Path | None,
    recipe_file: Path | None,
    scaling: bool,
    **options: Any,
) -> None:
    """Predict memory, communication and time for reconstructing SCAN, or a scan of given sizes."""
    from bluesky_multislice.cli import plan_scan
    from bluesky_multislice.planning import data_sheets, measure_machine, read_profile, write_profile

    views_an_angle = options.pop("views_an_angle")
    plan_options = {name: options.pop(name) for name in _PLAN_OPTIONS}
    plan_options["views_per_angle"] = plan_options["views_per_angle"] or views_an_angle
    recipe = collect_recipe(recipe_file, options)
    _check_options(plan_options, scan is not None, measured_file is not None, scaling)
    if measured_file is not None:
        profile = measure_machine(recipe.device)
        write_profile(measured_file, profile)
        click.echo("\n".join(plan_scan.profile_lines(profile)))
        return
    if scaling:
        from bluesky_multislice.cli.scaling_table import scaling_lines

        for line in scaling_lines(data_sheets()[plan_options["machine"] or "a100"]):
            click.echo(line)
        return
    profile = None if profile_file is None else read_profile(profile_file)
    click.echo("\n".join(plan_scan.plan_lines(scan, plan_options, recipe, profile)))


def _check_options(options: dict[str, Any], *others: bool) -> None:
    """Check that one thing is to be planned or measured, and that sizes belong to a volume."""
    given = sum((options["volume"] is not None, *others))
    if given != 1:
        raise PlanError(
            "Exactly one of SCAN, --volume, --measure and --scaling must be given.",
            got=f"{given} of them.",
            remedy="give one of them.",
        )
    if options["volume"] is None and (sizes := [name for name in _SIZES if options[name] is not None]):
        raise PlanError(
            "Sizes of a scan can only be given together with --volume.",
            got=f"{', '.join('--' + name.replace('_', '-') for name in sizes)} without --volume.",
            remedy="give --volume instead of SCAN, or omit these options.",
        )


_SIZES = ("frame", "angles", "views_per_angle")

_PLAN_OPTIONS = (
    "instrument_file",
    "volume",
    "frame",
    "angles",
    "views_per_angle",
    "pixel_nm",
    "energy_kev",
    "gpu_memory_gb",
    "machine",
    "site_file",
)
"""Options of the command that are not fields of the recipe."""
