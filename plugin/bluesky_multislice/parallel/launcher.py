"""A rank ends with the torchrun that started it, and with the other ranks of a job that has failed."""

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
"""Seconds between two looks for an error that shared storage may show late."""


def end_with_launcher(last_argument: str) -> None:
    """Have the kernel kill this rank as soon as its torchrun ends; without torchrun, or not on Linux, do nothing.

    torchrun puts every rank into a session of its own, so that whoever kills it, such as the kernel for want of memory,
    would leave ranks that nobody waits for. What they have not yet kept, a later start does again.

    Args:
        last_argument: last word of the rank's command line, and therefore of its torchrun's.
    """
    if sys.platform != "linux" or "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may have ended before the kernel was asked, while this rank was importing.
    if not _parent_has(last_argument):
        print("torchrun has gone, and its rank goes, too", file=sys.stderr)
        end_process(1)


def _parent_has(word: str) -> bool:
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        return False
    return os.fsencode(word) in words


def end_with_failed_job(failed: Callable[[], bool]) -> None:
    """End this rank when it is asked to (SIGTERM) and the job has failed, whatever its main thread waits for.

    When a rank fails, torchrun asks the others to end and kills them half a minute later. They could not obey: a
    rank that sits in a collective runs no signal handler of Python's. A thread hears of the signal meanwhile. While the
    job has not failed, it leaves the signal to the handlers, which may keep a checkpoint.

    Args:
        failed: whether a rank of the job has failed.
    """
    heard, rings = os.pipe()
    os.set_blocking(rings, False)
    signal.set_wakeup_fd(rings, warn_on_full_buffer=False)
    threading.Thread(target=_end_after_signal, args=(heard, failed), name="failed job", daemon=True).start()


def _end_after_signal(heard: int, failed: Callable[[], bool]) -> None:
    while os.read(heard, 1) != bytes([signal.SIGTERM]):
        pass
    while not failed():
        time.sleep(_POLL_INTERVAL_S)
    print("another rank of the job has failed, and this one ends, too", file=sys.stderr)
    end_process(1)
