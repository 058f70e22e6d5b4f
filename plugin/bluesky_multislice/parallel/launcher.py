"""Ends a rank when its launcher ends, or when another rank of the job has failed."""

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bluesky_multislice.parallel.mesh import end_process

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""

_POLL_INTERVAL_S = 0.2
"""Seconds between checks for a failure, which shared storage may show late."""


def end_with_launcher(last_argument: str) -> None:
    """Make the Linux kernel kill this rank when its launcher ends; no effect without one or on other systems.

    Without this, ranks would continue unattended after the launcher (``start_ranks`` or torchrun) has been killed, for
    example by the out-of-memory killer. A restart repeats the work since the last checkpoint.

    Args:
        last_argument: last argument of the rank's command line, which is also the last argument of the launcher's.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # The launcher may have ended before the call, during this rank's imports.
    if not _parent_has(last_argument):
        print("the launcher has ended; this rank ends as well", file=sys.stderr)
        end_process(1)


def _parent_has(argument: str) -> bool:
    try:
        arguments = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return os.fsencode(argument) in arguments


def end_with_failed_job(failed: Callable[[], bool]) -> None:
    """End this rank after SIGTERM if the job has failed, even while its main thread is blocked.

    When a rank fails, the launcher sends SIGTERM to the other ranks and kills them 30 s later. A rank that is blocked
    in a collective runs no Python signal handler, so a thread waits for the signal instead. If the job has not failed,
    the thread leaves the signal to the handlers, which may save a checkpoint.

    Args:
        failed: returns whether a rank of the job has failed.
    """
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_signal, args=(read_end, failed), name="failed job", daemon=True).start()


def _end_after_signal(read_end: int, failed: Callable[[], bool]) -> None:
    while os.read(read_end, 1) != bytes([signal.SIGTERM]):
        pass
    while not failed():
        time.sleep(_POLL_INTERVAL_S)
    print("another rank of the job has failed; this rank ends as well", file=sys.stderr)
    end_process(1)
