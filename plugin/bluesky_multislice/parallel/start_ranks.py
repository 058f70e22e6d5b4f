"""Starts a job's ranks on this node: torchrun whose ranks are forked from one process that has imported the job.

``python -m bluesky_multislice.parallel.start_ranks [torchrun's options] -m MODULE FOLDER``

torchrun starts each rank as a new interpreter, which imports PyTorch and the package again: seconds of every core
before the first epoch. Here, the launcher imports them once. It computes nothing before it forks, so it has no threads
of OpenMP and no GPU's context.
"""

import os
import signal
import sys
from importlib import import_module

import torch
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.errors import record
from torch.distributed.launcher.api import elastic_launch

from bluesky_multislice.parallel import end_process, requested_threads


@record
def main(arguments: list[str]) -> None:
    """Start the ranks and wait for their end.

    Args:
        arguments: torchrun's options, then ``-m``, the module whose ``main`` every rank calls, and the module's own
            arguments. Without an address, the ranks of one node meet at a free port.

    Raises:
        ChildFailedError: a rank failed. The other ranks have ended, too.
    """
    options = torchrun.parse_args(arguments)
    own_port = options.master_port is None
    if sys.platform != "linux":
        # Elsewhere, system libraries may not survive a fork: torchrun starts interpreters.
        torchrun.main(["--standalone", *arguments] if own_port else arguments)
        return
    if own_port:
        options.rdzv_backend, options.rdzv_endpoint = "c10d", "localhost:0"
    if requested_threads(os.environ) is None:
        # torchrun sets the variable to 1 now, but OpenMP has read it when PyTorch was imported.
        torch.set_num_threads(1)
    config, _, _ = torchrun.config_from_args(options)
    config.start_method = "fork"
    import_module(options.training_script)
    elastic_launch(config, _run_rank)(options.training_script, *options.training_script_args)


def _run_rank(module: str, *arguments: str) -> None:
    """Call the module's ``main`` in a forked process, with the signals of a new one."""
    for handled in ("SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1"):
        signal.signal(signal.Signals[handled], signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[1:] = arguments
    # Only a rank that returns has finished: the launcher waits for the value of each.
    if status := import_module(module).main():
        end_process(status)


if __name__ == "__main__":
    main(sys.argv[1:])
