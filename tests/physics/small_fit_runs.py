"""Small fits in separate processes, for tests that compare their results."""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable
from pathlib import Path

import emulated_device
import numpy as np
import pytest
import run_small_fits
from forked_ranks import run_on_ranks
from numpy.typing import NDArray
from small_fits import CASES

FOLDER = Path(__file__).parent


def marked(names: Iterable[str], long: Collection[str]) -> list:
    """Return names of cases as parameters; slow cases only run in `make test-all`."""
    return [pytest.param(name, marks=pytest.mark.matrix) if name in long else name for name in names]


def asked_for(request: pytest.FixtureRequest) -> list[str]:
    """Return the cases needed by the selected tests of a file, which one process runs together."""
    own = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {item.callspec.params.get("case") for item in own}
    return [name for name in CASES if name in asked]


def run(
    path: Path, device: str, names: Iterable[str], *, ranks: int = 1, threads: Iterable[int] = (1,), epochs: int = 0
) -> tuple[dict[str, NDArray], dict]:
    """Carry out small fits; return what was found and what the emulated device said, by case, mesh and threads.

    Args:
        path: where the results go, an npz file.
        device: ``cpu``, or ``cuda`` for the emulated device.
        names: of the cases.
        ranks: processes.
        threads: numbers of threads of a rank, one after the other.
        epochs: of each fit; 0: as the case has it.
    """
    if device == "cpu":
        run_on_ranks(run_small_fits.main, ranks, path, device, threads, epochs, list(names))
        return _results(path)
    # The emulated device has to be there before PyTorch is imported: these processes cannot be forked.
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | emulated_device.environment(devices=ranks)
    paths = [str(FOLDER.parent), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    options = [str(path), device, ",".join(map(str, threads)), str(epochs), *names]
    command = [sys.executable, *(torchrun if ranks > 1 else []), str(FOLDER / "run_small_fits.py"), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=850)
    assert done.returncode == 0, done.stderr
    return _results(path)


def _results(path: Path) -> tuple[dict[str, NDArray], dict]:
    return dict(np.load(path)), json.loads(path.with_suffix(".json").read_text())


def difference(found: NDArray, expected: NDArray) -> float:
    """Return the relative difference."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
