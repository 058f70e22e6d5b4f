"""Imports a job before it is known, then starts its ranks.

``python -m bluesky_multislice.parallel.start_early -m MODULE FOLDER`` with the order on the standard input: one line of
JSON, ``{"ranks": N, "environment": {...}}``. Without an order, at the end of the input, the process ends.

A job's imports take as long as those of the command that plans it. With this process, both run at the same time.
"""

import json
import os
import sys
from importlib import import_module

import torch

from bluesky_multislice.parallel import end_process, requested_threads, start_ranks

_KERNELS = "bluesky_multislice.optics.fused_slices"
"""The compiled kernels, which every job on processors uses. They take a second to load."""


def main(module: str, folder: str) -> None:
    """Import the job, wait for the order, and become the job's only rank or the launcher of its ranks.

    Args:
        module: module whose ``main`` every rank calls.
        folder: the job folder, its argument.
    """
    job = import_module(module)
    import_module(_KERNELS)
    line = sys.stdin.readline()
    if not line:
        return
    order = json.loads(line)
    os.environ.clear()
    os.environ.update(order["environment"])
    # OpenMP has read the variable when PyTorch was imported.
    torch.set_num_threads(requested_threads(os.environ) or 1)
    if order["ranks"] > 1:
        start_ranks.main([f"--nproc-per-node={order['ranks']}", "-m", module, folder])
        return
    sys.argv[1:] = [folder]
    end_process(job.main())


if __name__ == "__main__":
    main(*sys.argv[2:])
