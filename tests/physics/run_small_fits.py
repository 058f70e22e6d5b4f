"""Carries out small fits on every mesh of its ranks and saves what they find: alone, or on several ranks.

run_small_fits.py RESULT.npz DEVICE THREADS EPOCHS CASE …

DEVICE is ``cpu``, or ``cuda`` for the emulated device, whose log goes to RESULT.json; THREADS is like ``1,2,3``,
EPOCHS 0 takes those of the case.
"""

import json
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from small_fits import CASES, SmallFit
from torch.distributed.device_mesh import init_device_mesh

from bluesky_multislice.parallel import Mesh, Slab, end_process, join_mesh
from bluesky_multislice.solvers import Solution


def meshes(whole: Mesh) -> Iterator[tuple[str, Mesh]]:
    """Yield the meshes that the ranks can form, by name: all ranks in one dimension or in the other."""
    yield f"{whole.size}x1", whole
    if whole.size > 1:
        devices = init_device_mesh(whole.device.type, (1, whole.size), mesh_dim_names=("angle", "slab"))
        yield f"1x{whole.size}", replace(whole, slabs=whole.size, devices=devices)


def arrays(solution: Solution, slab: Slab) -> dict[str, NDArray]:
    """Return the arrays of a solution, with the whole volume."""
    volume = torch.stack([slab.join(part) for part in (solution.delta, solution.beta)])
    found = {"volume": volume, "probe": solution.probe, **solution.differences}
    losses = np.array([epoch.loss for epoch in solution.history])
    return {name: value.cpu().numpy() for name, value in found.items()} | {"losses": losses}


def results(fit: SmallFit, mesh: Mesh, name: str, epochs: int) -> dict[str, NDArray]:
    """Return the results of a fit on the ranks of a mesh."""
    plan = fit.plan(mesh=name, **({"epochs": epochs} if epochs else {}))
    return arrays(fit.solve(plan, mesh), Slab(mesh, plan.grid.shape[1]))


def main(path: Path, device: str, threads: Iterable[int], epochs: int, names: list[str]) -> None:
    """Save the results of all cases, and of the emulated device what failed and what its log says."""
    found, said = {}, {}
    with join_mesh(device) as whole:
        for mesh_name, mesh in meshes(whole):
            for case in names:
                for number in threads:
                    torch.set_num_threads(number)
                    key = f"{case}/{mesh_name}/{number}"
                    try:
                        found |= {
                            f"{key}/{name}": value
                            for name, value in results(CASES[case], mesh, mesh_name, epochs).items()
                        }
                    except Exception:
                        if whole.size > 1:
                            raise  # The others would wait for this rank.
                        said[key] = {"failed": traceback.format_exc()}
                    else:
                        said[key] = notes() if device == "cuda" else {}
    if whole.rank == 0:
        np.savez(path, **found)
        path.with_suffix(".json").write_text(json.dumps(said))


def notes() -> dict[str, list]:
    """Return the emulated device's log entries since the last call."""
    from emulated_device import LOG

    kinds = ("synchronisation", "upload", "collective", "error")
    said = {kind: [[number, asdict(note)] for number, note in LOG.of(kind)] for kind in kinds}
    LOG.clear()
    return said


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2],
        [int(number) for number in sys.argv[3].split(",")],
        int(sys.argv[4]),
        sys.argv[5:],
    )
    end_process(0)
