"""What torchrun starts on the allocation: a job folder in, the result and its progress out.

torchrun --nproc-per-node N -m bluesky_multislice.jobs.job FOLDER
"""

import json
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.files import read_scan, write_preview, write_result
from bluesky_multislice.jobs.job_folder import INTERRUPTED_STATUS, JobFolder
from bluesky_multislice.jobs.provenance import describe, software
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
from bluesky_multislice.units import energy_ev_from_wavelength

_BETWEEN_PREVIEWS_S = 60.0
"""Seconds between two pictures of the volume."""

_POLL_INTERVAL_S = 1.0
"""Seconds between two looks for a request to stop in a folder that may lie on a slow network."""


def run(folder: JobFolder, asked: Callable[[], str] = lambda: "") -> None:
    """Reconstruct the scan in a job folder, from where an earlier run has stopped; every rank calls it.

    Args:
        folder: the job folder.
        asked: tells the signal that asks this rank to stop, empty where there is none.

    Raises:
        Interrupted: the job was asked to stop, and has kept its state.
        MultisliceError: the scan or the plan cannot be used, or the fit diverged.
    """
    began = time.monotonic()
    job = folder.read_job()
    plan = Plan.from_dict(job["plan"])
    # Joined before the scan is read: no rank can leave an error before rank 0 has cleared those of an earlier run.
    with join_mesh(plan.device, plan.slabs) as mesh, _progress(folder, plan, mesh) as report, _error_left_in(folder):
        scan = read_scan(folder.frames)

        belongs_to = identity(scan, plan)
        _check_alike(mesh, belongs_to | software())
        kernels = choose_kernels(plan.kernels, mesh)
        if mesh.rank == 0:
            print(f"kernels: {kernels}", flush=True)
        # After an error nothing is closed that could wait for ranks that sit in a collective.
        checkpoints = Checkpoints(folder.checkpoints, mesh, belongs_to)
        journal = Journal(checkpoints, mesh, every=plan.checkpoint_every, stop_reason=_Asked(folder, mesh, asked))
        stopped = None
        try:
            with _memory_in_words(plan, scan, mesh):
                result = reconstruct(scan, plan, mesh, report, journal, _Preview(folder, mesh))
                _hand_over(folder, job, result, mesh, began, checkpoints)
        except Interrupted as stop:
            # All ranks raise it together, and leave the mesh together.
            stopped = stop
            if mesh.rank == 0:
                # On a full disk the exit status tells.
                with suppress(OSError):
                    folder.write_interrupted(reason=stop.reason, epoch=stop.epoch)
        checkpoints.close()
    if stopped is not None:
        raise stopped


def _hand_over(
    folder: JobFolder, job: dict, result: Reconstruction, mesh: Mesh, began: float, checkpoints: Checkpoints
) -> None:
    """Write the result, and remove the checkpoints that it is made of; every rank calls it."""
    if result.solution.status == "diverged":
        checkpoints.clear()
        _refuse(result.solution)
    peak_memory_bytes = mesh.peak_memory_bytes()
    slab, solution = Slab(mesh, result.grid.shape[1]), result.solution
    delta, beta = (slab.parts(part) for part in (solution.delta, solution.beta))
    if mesh.rank == 0:
        seconds, events = time.monotonic() - began, checkpoints.events
        _write(folder, job, result, delta, beta, mesh, seconds, peak_memory_bytes, events)
    elif mesh.angle == 0:
        # The first rank asks for the slabs of δ and then for those of β.
        for _ in chain(delta, beta):
            pass
    checkpoints.clear()


class _Asked:
    """Tells why this rank is asked to stop; asked itself between any two steps, it looks for the file now and then."""

    def __init__(self, folder: JobFolder, mesh: Mesh, by_signal: Callable[[], str]) -> None:
        self._folder, self._mesh, self._by_signal = folder, mesh, by_signal
        self._looked_at, self._requested = -math.inf, False

    def __call__(self) -> str:
        if self._mesh.rank == 0 and time.monotonic() - self._looked_at > _POLL_INTERVAL_S:
            self._looked_at, self._requested = time.monotonic(), self._folder.stop_request.exists()
        return self._by_signal() or ("stop-request" if self._requested else "")


def _check_alike(mesh: Mesh, own: dict[str, str]) -> None:
    """Refuse ranks that see different files or plans, or run different versions."""
    first, *others = Agreement(mesh).from_all_ranks(lambda: own)
    for rank, other in enumerate(others, start=1):
        odd = {name: (first[name], other[name]) for name in first if first[name] != other[name]}
        if odd:
            raise JobError(
                "All ranks see the same files and run the same versions.",
                got=f"on ranks 0 and {rank} " + ", ".join(f"{name} {a} and {b}" for name, (a, b) in odd.items()) + ".",
                remedy="put the job folder on storage that all nodes share, and give them one environment.",
            )


def _refuse(solution: Solution) -> NoReturn:
    raise JobError(
        "A fit must not diverge.",
        got=f"a misfit of {solution.history[-1].loss:.3g} after {len(solution.history)} epochs.",
        remedy=solution.advice,
    )


@contextmanager
def _progress(folder: JobFolder, plan: Plan, mesh: Mesh) -> Iterator[Callable[[Epoch], None]]:
    """Give what writes a line an epoch, on rank 0; what a full disk does not take, it tries again."""
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


class _Preview:
    """Leaves a picture of the volume as it is in the job folder now and then; every rank calls it after every epoch."""

    def __init__(self, folder: JobFolder, mesh: Mesh) -> None:
        self._folder, self._mesh = folder, mesh
        self._left_at = -math.inf

    def __call__(self, slab: Slab, delta: Callable[[], torch.Tensor]) -> None:
        due = self._mesh.rank == 0 and time.monotonic() - self._left_at > _BETWEEN_PREVIEWS_S
        if not self._mesh.largest(due):
            return
        slices = slab.middle(delta())
        self._left_at = time.monotonic()
        if self._mesh.rank == 0:
            # A disk that is full or gone must not end the job for a picture.
            with suppress(OSError):
                write_preview(self._folder.preview, [part.cpu().numpy() for part in slices])


@contextmanager
def _memory_in_words(plan: Plan, scan: Scan, mesh: Mesh) -> Iterator[None]:
    """Say what was planned, and what would fit, where the memory of this rank's device runs out."""
    try:
        yield
    except Exception as error:
        if told := out_of_memory(error, plan, scan.geometry, mesh.device):
            raise told from error
        raise


@contextmanager
def _error_left_in(folder: JobFolder) -> Iterator[None]:
    """Leave an error in the folder before this rank ends: the other ranks then only see their peer disappear."""
    try:
        yield
    except Interrupted:
        raise
    except Exception as error:
        folder.write_error(lost_rank(error) or error)
        raise


def _write(
    folder: JobFolder,
    job: dict,
    result: Reconstruction,
    delta: Iterable[tuple[slice, torch.Tensor]],
    beta: Iterable[tuple[slice, torch.Tensor]],
    mesh: Mesh,
    seconds: float,
    peak_memory_bytes: int,
    events: list[dict],
) -> None:
    solution, geometry = result.solution, result.geometry
    columns = [asdict(epoch) for epoch in solution.history]
    agreement = result.shell_correlation
    history = {name: np.array([row[name] for row in columns], float) for name in columns[0]}
    write_result(
        folder.result,
        delta=((rows, part.cpu().numpy()) for rows, part in delta),
        beta=((rows, part.cpu().numpy()) for rows, part in beta),
        probe=solution.probe.cpu().numpy(),
        positions=result.position_m,
        history=history,
        grid=result.grid,
        energy_ev=energy_ev_from_wavelength(geometry.beam.wavelength_m),
        provenance=describe(
            job,
            result,
            frames=folder.frames,
            ranks=mesh.size,
            device=mesh.device,
            seconds=seconds,
            peak_memory_bytes=peak_memory_bytes,
            events=events,
        ),
        refined={name: value.cpu().numpy() for name, value in solution.differences.items()},
        shell_correlation=None if agreement is None else agreement.curves,
    )


def main() -> int:
    """Run the job folder named on the command line, and return its exit status; its error is left in the folder."""
    end_with_launcher(sys.argv[1])
    folder = JobFolder(Path(sys.argv[1]))
    end_with_failed_job(folder.error.exists)
    signals: list[str] = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: signals.append(signal.Signals(number).name))
    torch.manual_seed(0)
    if os.environ.get("RANK", "0") == "0":
        folder.forget_last_run()
    try:
        with _error_left_in(folder):
            run(folder, asked=lambda: signals[0] if signals else "")
    except Interrupted as stop:
        print(f"stopped by {stop.reason}; the next run goes on from epoch {stop.epoch}", flush=True)
        return INTERRUPTED_STATUS
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
