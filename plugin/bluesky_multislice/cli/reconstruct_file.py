"""Reconstructs an interchange file without any service, with the same job folder and job as the flow."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bluesky_multislice.cli.former_argument import stage_former
from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import former_record, linked_files, read_provenance, read_scan, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import SiteProfile, allocate, machine_of, make_scheduler, run_and_wait
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


@dataclass(frozen=True)
class JobPlace:
    """Where a job runs.

    Attributes:
        site: profile of the machine.
        folder: folder for the job's state; an interrupted job resumes from there. None: a temporary folder.
    """

    site: SiteProfile
    folder: Path | None = None


def reconstruct_file(
    scan_file: Path,
    output: Path,
    recipe: Recipe,
    *,
    instrument: Instrument | None,
    place: JobPlace,
    display: ReconstructionDisplay,
) -> dict[str, Any]:
    """Reconstruct an interchange file into a result file.

    Args:
        scan_file: the scan.
        output: the result file; it appears only after it is complete.
        recipe: recipe of the reconstruction.
        instrument: instrument file, searched for values that the scan lacks.
        place: where the job runs.
        display: shows plan and progress.

    Returns:
        The provenance.

    Raises:
        MultisliceError: the scan or the recipe cannot be used, or the job failed.
    """
    site = place.site
    if not output.parent.is_dir():
        raise ScanError(
            "The folder of the result must exist.", got=f"{output.parent}.", remedy="create it or correct the path."
        )
    scan = read_scan(scan_file, values=recipe.scan, instrument=instrument, frames=recipe.frames)
    if output.exists() and output.samefile(scan_file):
        raise ScanError("The result must not overwrite the scan.", got=f"{output}.", remedy="choose another name.")
    with _job_path(place.folder, output) as path:
        folder = JobFolder(path)
        if recipe.start_from is not None:
            scan = replace(scan, former=stage_former(recipe.start_from, folder.create().former))
        plan = make_plan(recipe, scan, machine_of(site, recipe.resources))
        allocation = allocate(site, recipe.resources, ranks=plan.ranks, device=plan.device)
        display.show_plan(plan, scan.warnings + plan.notes)
        folder.create()
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
        scheduler = make_scheduler(site)
        run_and_wait(scheduler, folder, name=output.name, allocation=allocation, on_progress=display.show_epoch)
        shutil.move(folder.result, output)
    return read_provenance(output)


@contextmanager
def _job_path(job_folder: Path | None, output: Path) -> Iterator[Path]:
    """Yield the given job folder, or a temporary hidden folder beside the result."""
    if job_folder is not None:
        yield job_folder.absolute()
        return
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as path:
        yield Path(path)
