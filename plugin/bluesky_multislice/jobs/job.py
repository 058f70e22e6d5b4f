"""Entry point of each rank: reads a job folder, reconstructs, and writes the result and the progress.

``python -m bluesky_multislice.parallel.start_ranks --nproc-per-node=N -m bluesky_multislice.jobs.job FOLDER``, or for
a single rank ``python -m bluesky_multislice.jobs.job FOLDER``
"""

import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import NoReturn

import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.files import read_former, read_scan, write_preview, write_result
from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder
from bluesky_multislice.jobs.provenance import JobRun, make_provenance, software
from bluesky_multislice.measurement import Scan
from bluesky_multislice.parallel import (
    Agreement,
    Checkpoints,
    Mesh,
    Slab,
    end_process,
    end_with_failed_job,
    end_with_launcher,
    join_mesh,
    lost_rank,
)
from bluesky_multislice.planning import Plan, identity, out_of_memory
from bluesky_multislice.reconstruction import Reconstruction, reconstruct
from bluesky_multislice.solvers import Epoch, Interrupted, Journal, Solution, choose_kernels

_PREVIEW_INTERVAL_S = 60.0
"""Seconds between two previews of the volume."""

_POLL_INTERVAL_S = 1.0
"""Seconds between two checks for a stop request; the job folder may be on a slow network filesystem."""


def run(folder: JobFolder, stop_signal: Callable[[], str] = lambda: "") -> None:
    """Reconstruct the scan in a job folder. Resumes from a checkpoint if there is one. Every rank calls this function.

    Args:
        folder: the job folder.
        stop_signal: returns the name of the signal that asks this rank to stop; an empty string if there was none.

    Raises:
        Interrupted: the job was asked to stop and has written a checkpoint.
        MultisliceError: the scan or the plan cannot be used, or the fit diverged.
    """
    start_time = time.monotonic()
    job = folder.read_job()
    plan = Plan.from_dict(job["plan"])
    # Join the mesh before reading the scan, so that no rank writes an error before rank 0 has removed old ones.
    with join_mesh(plan.device, plan.slabs) as mesh, _progress(folder, plan, mesh) as report, _record_error_in(folder):
        scan = read_scan(folder.frames)
        if plan.from_former:
            scan = replace(scan, former=read_former(folder.former))
        belongs_to = identity(scan, plan)
        _check_ranks_agree(mesh, belongs_to | software())
        kernels = choose_kernels(plan.kernels, mesh)
        if mesh.rank == 0:
            print(f"kernels: {kernels}", flush=True)
        # Not closed after an error: closing would wait for ranks that are blocked in a collective operation.
        checkpoints = Checkpoints(folder.checkpoints, mesh, belongs_to)
        stop_reason = _StopRequest(folder, mesh, stop_signal)
        journal = Journal(checkpoints, mesh, every=plan.checkpoint_every, stop_reason=stop_reason)
        stopped = None
        try:
            with _explain_out_of_memory(plan, scan, mesh):
                result = reconstruct(scan, plan, mesh, report, journal, _PreviewWriter(folder, mesh))
                _write_and_clear(folder, job, result, mesh, start_time, checkpoints)
        except Interrupted as stop:
            # All ranks raise Interrupted at the same step, so that they leave the mesh together.
            stopped = stop
            if mesh.rank == 0:
                # If the disk is full, the exit status still reports the interruption.
                with suppress(OSError):
                    folder.write_interrupted(reason=stop.reason, epoch=stop.epoch)
        checkpoints.close()
    if stopped is not None:
        raise stopped


def _write_and_clear(
    folder: JobFolder, job: dict, result: Reconstruction, mesh: Mesh, start_time: float, checkpoints: Checkpoints
) -> None:
    """Write the result, then remove the checkpoints. Every rank calls this function."""
    if result.solution.status == "diverged":
        checkpoints.clear()
        _raise_diverged(result.solution)
    peak_memory_bytes = mesh.peak_memory_bytes()
    slab, solution = Slab(mesh, result.grid.shape[1]), result.solution
    delta, beta = (slab.parts(part) for part in (solution.delta, solution.beta))
    if mesh.rank == 0:
        run = JobRun(mesh, time.monotonic() - start_time, peak_memory_bytes, checkpoints.events)
        write_result(
            folder.result,
            result,
            provenance=make_provenance(job, result, frames=folder.frames, run=run),
            volumes={
                name: ((rows, part.cpu().numpy()) for rows, part in parts)
                for name, parts in (("delta", delta), ("beta", beta))
            },
        )
    elif mesh.angle == 0:
        # Rank 0 collects all slabs of δ first, then all slabs of β. The other ranks must send in the same order.
        for _ in chain(delta, beta):
            pass
    checkpoints.clear()


class _StopRequest:
    """Returns why this rank should stop. Called at every step; limits how often rank 0 checks for the file."""

    def __init__(self, folder: JobFolder, mesh: Mesh, stop_signal: Callable[[], str]) -> None:
        self._folder, self._mesh, self._stop_signal = folder, mesh, stop_signal
        self._checked_at, self._requested = -math.inf, False

    def __call__(self) -> str:
        if self._mesh.rank == 0 and time.monotonic() - self._checked_at > _POLL_INTERVAL_S:
            self._checked_at, self._requested = time.monotonic(), self._folder.stop_request.exists()
        return self._stop_signal() or ("stop-request" if self._requested else "")


def _check_ranks_agree(mesh: Mesh, own: dict[str, str]) -> None:
    """Raise a JobError if ranks see different files or plans, or run different software versions."""
    first, *others = Agreement(mesh).from_all_ranks(lambda: own)
    for rank, other in enumerate(others, start=1):
        odd = {name: (first[name], other[name]) for name in first if first[name] != other[name]}
        if odd:
            raise JobError(
                "All ranks must see the same files and run the same software versions.",
                got=f"on ranks 0 and {rank} " + ", ".join(f"{name} {a} and {b}" for name, (a, b) in odd.items()) + ".",
                remedy="put the job folder on storage that all nodes share, and install the same environment on them.",
            )


def _raise_diverged(solution: Solution) -> NoReturn:
    raise JobError(
        "A fit must not diverge.",
        got=f"a misfit of {solution.history[-1].loss:.3g} after {len(solution.history)} epochs.",
        remedy=solution.advice,
    )


@contextmanager
def _progress(folder: JobFolder, plan: Plan, mesh: Mesh) -> Iterator[Callable[[Epoch], None]]:
    """Yield a callback that appends one line per epoch to the progress file. Only rank 0 writes.

    If the disk is full, the line stays in the buffer and the next epoch tries to write it again.
    """
    if mesh.rank:
        yield lambda epoch: None
        return
    with folder.progress.open("a") as progress:

        def report(epoch: Epoch) -> None:
            progress.write(
                json.dumps(asdict(epoch) | {"epochs": plan.epochs, "memory_bytes": mesh.own_peak_bytes}) + "\n"
            )
            with suppress(OSError):
                progress.flush()

        yield report


class _PreviewWriter:
    """Writes a preview of the current volume at most once per minute. Every rank calls it after every epoch."""

    def __init__(self, folder: JobFolder, mesh: Mesh) -> None:
        self._folder, self._mesh = folder, mesh
        self._written_at = -math.inf

    def __call__(self, slab: Slab, delta: Callable[[], torch.Tensor]) -> None:
        due = self._mesh.rank == 0 and time.monotonic() - self._written_at > _PREVIEW_INTERVAL_S
        if not self._mesh.largest(due):
            return
        slices = slab.middle(delta())
        self._written_at = time.monotonic()
        if self._mesh.rank == 0:
            # A failed preview must not end the job.
            with suppress(OSError):
                write_preview(self._folder.preview, [part.cpu().numpy() for part in slices])


@contextmanager
def _explain_out_of_memory(plan: Plan, scan: Scan, mesh: Mesh) -> Iterator[None]:
    """If this rank's device runs out of memory, raise an error that states the planned memory and what would fit."""
    try:
        yield
    except Exception as error:
        if explained := out_of_memory(error, plan, scan.geometry, mesh.device):
            raise explained from error
        raise


@contextmanager
def _record_error_in(folder: JobFolder) -> Iterator[None]:
    """Write an error to the job folder before this rank ends. The other ranks only see that their peer is lost."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        folder.write_error(lost_rank(error) or error)
        raise


def main() -> int:
    """Run the job in the folder given on the command line and return the exit status. Errors go to ``error.json``."""
    end_with_launcher(sys.argv[1])
    folder = JobFolder(Path(sys.argv[1]))
    end_with_failed_job(folder.error.exists)
    signals: list[str] = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(signal.Signals(number).name))
    torch.manual_seed(0)
    if os.environ.get("RANK", "0") == "0":
        folder.clear_last_run()
    try:
        with _record_error_in(folder):
            run(folder, stop_signal=lambda: signals[0] if signals else "")
    except Interrupted as stop:
        print(f"stopped by {stop.reason}; the next run resumes from epoch {stop.epoch}", flush=True)
        return INTERRUPTED_STATUS
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
