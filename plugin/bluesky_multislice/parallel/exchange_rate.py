"""Measures the rate at which two ranks of this machine exchange rows: ``torchrun … exchange_rate.py DEVICE``."""

import os
import subprocess
import sys
import time

import torch

from bluesky_multislice.parallel.mesh import end_process, join_mesh
from bluesky_multislice.parallel.slab import Slab

_ROWS, _TIMES = 64, 5
_SHAPE = (16, _ROWS, 1024)
"""Planes (plane, y, x) that a rank sends: 4 MiB."""


def measured_rate(device: str) -> float | None:
    """Return the bytes per second that two ranks send to each other simultaneously; None if they cannot start.

    Args:
        device: ``cpu``, ``cuda`` or ``xpu``.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo"}
    done = subprocess.run([*launch, device], env=environment | os.environ, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def _exchange(device: str) -> None:
    """Exchange rows; rank 0 prints the highest rate, because other processes can only lower it."""
    with join_mesh(device, 2) as mesh:
        slab, everything = Slab(mesh, 2 * _ROWS), [(0, 2 * _ROWS)] * 2
        planes, rates = torch.ones(_SHAPE, device=mesh.device), []
        for _ in range(1 + _TIMES):
            began, before = time.perf_counter(), slab.bytes_sent
            slab.collect(planes, everything)
            # A collective of all ranks, so that all rows have arrived before the clock is read.
            mesh.largest(0.0)
            rates.append((slab.bytes_sent - before) / (time.perf_counter() - began))
        if mesh.rank == 0:
            print(max(rates[1:]))


if __name__ == "__main__":
    _exchange(sys.argv[1])
    end_process(0)
