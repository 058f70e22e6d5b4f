"""What torchrun starts on the allocation: a job folder in, the result and its progress out.

torchrun --nproc-per-node N -m bluesky_multislice.job FOLDER
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from bluesky_multislice.errors import JobError
from bluesky_multislice.interchange import JobFolder, read_scan, write_result
from bluesky_multislice.parallel import Mesh, Slab, end_process, join_mesh
from bluesky_multislice.planning import Plan
from bluesky_multislice.provenance import describe
from bluesky_multislice.reconstruct import Reconstruction, reconstruct
from bluesky_multislice.solvers import Epoch
from bluesky_multislice.units import energy_ev_from_wavelength


def run(folder: JobFolder) -> None:
    """Reconstruct the scan in a job folder; every rank calls it.

    Raises:
        MultisliceError: the scan or the plan cannot be used, or the fit diverged.
    """
    began = time.monotonic()
    job = folder.read_job()
    plan = Plan.from_dict(job["plan"])
    # Joined before the scan is read: no rank can leave an error before rank 0 has cleared those of an earlier run.
    with join_mesh(plan.device, plan.slabs) as mesh, _error_left_in(folder), folder.progress.open("a") as progress:
        scan = read_scan(folder.frames)

        def report(epoch: Epoch) -> None:
            if mesh.rank == 0:
                record = asdict(epoch) | {"epochs": plan.epochs}
                progress.write(json.dumps(record) + "\n")
                progress.flush()

        result = reconstruct(scan, plan, mesh, report)
        if result.solution.status == "diverged":
            raise JobError(
                "A fit must not diverge.",
                got=f"a misfit of {result.solution.history[-1].loss:.3g} after {len(result.solution.history)} epochs.",
                remedy=result.solution.advice,
            )
        peak_memory_bytes = mesh.peak_memory_bytes()
        slab, solution = Slab(mesh, plan.grid.shape[1]), result.solution
        delta, beta = (slab.parts(part) for part in (solution.delta, solution.beta))
        if mesh.rank == 0:
            _write(folder, job, result, delta, beta, mesh, time.monotonic() - began, peak_memory_bytes)
        elif mesh.angle == 0:
            # The first rank asks for the slabs of δ and then for those of β.
            for _ in chain(delta, beta):
                pass


@contextmanager
def _error_left_in(folder: JobFolder) -> Iterator[None]:
    """Leave an error in the folder before the mesh closes: the other ranks then only see their peer disappear."""
    try:
        yield
    except Exception as error:
        folder.write_error(error)
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
        ),
        refined={name: value.cpu().numpy() for name, value in solution.differences.items()},
        shell_correlation=None if agreement is None else agreement.curves,
    )


def main() -> int:
    """Run the job folder named on the command line; its error is left in the folder."""
    folder = JobFolder(Path(sys.argv[1]))
    torch.manual_seed(0)
    if os.environ.get("RANK", "0") == "0":
        folder.forget_last_run()
    try:
        with _error_left_in(folder):
            run(folder)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
