"""Reconstructs an interchange file without any service, with the same job folder and job as the flow."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bluesky_multislice.errors import ScanError
from bluesky_multislice.files import linked_files, read_provenance, read_scan, write_scan
from bluesky_multislice.jobs import JobFolder
from bluesky_multislice.jobs.schedulers import SiteProfile, allocate, machine_of, make_scheduler, run_and_wait
from bluesky_multislice.planning import Plan, make_plan
from bluesky_multislice.recipe import Instrument, Recipe


def reconstruct_file(
    scan_file: Path,
    output: Path,
    recipe: Recipe,
    *,
    instrument: Instrument | None,
    site: SiteProfile,
    job_folder: Path | None = None,
    on_plan: Callable[[Plan, tuple[str, ...]], None],
    on_progress: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Reconstruct an interchange file into a result file.

    Args:
        scan_file: the scan.
        output: the result file; it appears only after it is complete.
        recipe: recipe of the reconstruction.
        instrument: instrument file, searched for values that the scan lacks.
        site: profile of the machine that runs the job.
        job_folder: folder for the job's state; an interrupted job resumes from there. None: a temporary folder.
        on_plan: called with the plan and with the warnings about scan and plan.
        on_progress: called with the record of each epoch.

    Returns:
        The provenance.

    Raises:
        MultisliceError: the scan or the recipe cannot be used, or the job failed.
    """
    if not output.parent.is_dir():
        raise ScanError(
            "The folder of the result must exist.", got=f"{output.parent}.", remedy="create it or correct the path."
        )
    scan = read_scan(scan_file, values=recipe.scan, instrument=instrument)
    if output.exists() and output.samefile(scan_file):
        raise ScanError("The result must not overwrite the scan.", got=f"{output}.", remedy="choose another name.")
    plan = make_plan(recipe, scan, machine_of(site, recipe.resources))
    allocation = allocate(site, recipe.resources, ranks=plan.ranks, device=plan.device)
    on_plan(plan, scan.warnings + plan.notes)
    with _job_path(job_folder, output) as path:
        folder = JobFolder(path).create()
        write_scan(folder.frames, scan, files=linked_files(scan))
        folder.write_job(
            recipe=recipe.model_dump(mode="json"),
            plan=plan.as_dict(),
            origin={"file": str(scan_file.resolve()), "sources": scan.sources, "warnings": list(scan.warnings)},
        )
        run_and_wait(make_scheduler(site), folder, name=output.name, allocation=allocation, on_progress=on_progress)
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
