"""Reconstructs an interchange file without any service, with the same job folder and job as the flow."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from bluesky_multislice.cli.former_argument import stage_former
from bluesky_multislice.cli.job_place import JobPlace
from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import former_record, linked_files, read_provenance, read_scan, write_scan
from bluesky_multislice.jobs.schedulers import (
    LocalScheduler,
    SiteProfile,
    allocate,
    machine_of,
    make_scheduler,
    run_and_wait,
)
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.recipe import Instrument, Recipe


class ReconstructionDisplay(Protocol):
    """Shows a reconstruction while it is made."""

    def show_plan(self, plan: Plan, warnings: tuple[str, ...]) -> None:
        """Show the plan, and the warnings about scan and plan."""
        ...

    def show_epoch(self, epoch: dict[str, Any]) -> None:
        """Show the record of an epoch."""
        ...


def reconstruct_file(
    scan_file: Path,
    output: Path,
    recipe: Recipe,
    *,
    instrument: Instrument | None,
    site: SiteProfile,
    place: JobPlace,
    display: ReconstructionDisplay,
) -> dict[str, Any]:
    """Reconstruct an interchange file into a result file.

    Args:
        scan_file: the scan.
        output: the result file; it appears only after it is complete.
        recipe: recipe of the reconstruction.
        instrument: instrument file, searched for values that the scan lacks.
        site: profile of the machine.
        place: where the job runs.
        display: shows plan and progress.

    Returns:
        The provenance.

    Raises:
        MultisliceError: the scan or the recipe cannot be used, or the job failed.
    """
    scan = read_scan(scan_file, values=recipe.scan, instrument=instrument, frames=recipe.frames)
    if output.exists() and output.samefile(scan_file):
        raise ScanError("The result must not overwrite the scan.", got=f"{output}.", remedy="choose another name.")
    folder = place.folder
    if recipe.start_from is not None:
        scan = replace(scan, former=stage_former(recipe.start_from, folder.former))
    plan = make_plan(recipe, scan, machine_of(site, recipe.resources))
    allocation = allocate(site, recipe.resources, ranks=plan.ranks, device=plan.device)
    display.show_plan(plan, scan.warnings + plan.notes)
    write_scan(folder.frames, scan, files=linked_files(scan))
    folder.write_job(
        recipe=recipe.model_dump(mode="json"),
        plan=plan.as_dict(),
        origin={
            "file": str(scan_file.resolve()),
            "sources": scan.sources,
            "warnings": list(scan.warnings),
            "former_result": former_record(scan.former),
        },
    )
    scheduler = LocalScheduler(site, early=place.early) if place.early else make_scheduler(site)
    run_and_wait(scheduler, folder, name=output.name, allocation=allocation, on_progress=display.show_epoch)
    shutil.move(folder.result, output)
    return read_provenance(output)
