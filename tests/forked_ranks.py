"""Ranks forked from a process that has imported PyTorch and the package; torchrun takes 2 s, and each of its ranks 3 s.

The process is Python's fork server. It imports and computes nothing, so no thread of OpenMP or autograd is lost in a
fork. What torchrun itself does (signals, the end of a failed job) is tested with torchrun.
"""

import multiprocessing
import os
from collections.abc import Callable
from functools import cache

from torch.distributed import TCPStore
from torch.multiprocessing.spawn import start_processes

from bluesky_multislice.parallel import end_process

IMPORTED = ["pytest", "torch.distributed.device_mesh", "bluesky_multislice.jobs.job"]
HOST = "127.0.0.1"


def run_on_ranks(function: Callable[..., int | None], ranks: int, *arguments: object) -> None:
    """Call a function in new processes that ``join_mesh`` connects.

    Args:
        function: a function of a module that the ranks can import. A number that it returns is the exit status.
        ranks: number of processes.
        arguments: arguments of the function.

    Raises:
        ProcessRaisedException: a rank raised; the message has its traceback. The other ranks are killed.
        ProcessExitedException: a rank ended with a status other than 0.
    """
    _name_imports()
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False)
    start_processes(
        _rank, (ranks, store.port, function, arguments), nprocs=ranks, daemon=True, start_method="forkserver"
    )


@cache
def _name_imports() -> None:
    """Tell the fork server, before it starts, what to import."""
    multiprocessing.set_forkserver_preload(IMPORTED)


def _rank(rank: int, ranks: int, port: int, function: Callable[..., int | None], arguments: tuple) -> None:
    # The store is that of the caller, as torchrun's is that of its agent.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    end_process(function(*arguments) or 0)
